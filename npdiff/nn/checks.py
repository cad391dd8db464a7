"""The check that the layers share: what they are given has the shapes that their docstrings name."""


def check_arrays(letters, **arrays):
    """Raise ValueError unless the named arrays have these shapes, one letter an axis, and hold no integers.

        check_arrays("NI IO O", x=x, W=W, b=b)

    The same letter is the same number everywhere. NumPy would stretch an axis of 1, and sums of small
    integers overflow, both in silence.
    """
    sizes = {}
    for axes, (name, array) in zip(letters.split(), arrays.items(), strict=True):
        shape, dtype = array.shape, array.dtype
        if len(shape) != len(axes) or any(sizes.setdefault(*axis) != axis[1] for axis in zip(axes, shape)):
            needed = ", ".join(str(sizes.get(letter, letter)) for letter in axes)
            raise ValueError(f"{name} has shape {shape}; it must be ({needed})")
        if dtype.kind in "iub":
            raise ValueError(f"{name} has dtype {dtype}; it must be floats")
