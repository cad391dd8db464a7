"""The check that the layers share: what they are given has the shapes that their docstrings name."""


def check_arrays(letters, **arrays):
    """Raise ValueError unless the named arrays have these shapes, one letter an axis, and hold no integers.

        check_arrays("NI IO O", x=x, W=W, b=b)

    The same letter is the same number everywhere. NumPy would stretch an axis of 1, and sums of small
    integers overflow, both in silence. An array that is None is left out.
    """
    sizes = {}
    for axes, (name, array) in zip(letters.split(), arrays.items(), strict=True):
        if array is None:
            continue
        fits = len(array.shape) == len(axes)
        for letter, size in zip(axes, array.shape):
            fits = fits and sizes.setdefault(letter, size) == size
        if not fits:
            needed = ", ".join(str(sizes.get(letter, letter)) for letter in axes)
            raise ValueError(f"{name} has shape {array.shape}; it must be ({needed})")
        if array.dtype.kind in "iub":
            raise ValueError(f"{name} has dtype {array.dtype}; it must be floats")
