"""torch's parameters under npdiff's names, and its arrays in npdiff's layout.

It mirrors no file of npdiff. Every saved state has the names and the layout of npdiff/models.
"""

from torch import nn

NAMES = {
    nn.Linear: {"weight": "W", "bias": "b"},
    nn.Conv2d: {"weight": "W", "bias": "b"},
    nn.GroupNorm: {"weight": "gamma", "bias": "beta"},
    nn.Embedding: {"weight": "table"},
}


def named_parameters(module):
    """npdiff's name -> the module's parameter.

    LAYER.weight of a linear layer or convolution is LAYER.W, its bias LAYER.b; the others are in NAMES.
    """
    named = {}
    for path, layer in module.named_modules():
        names = next((NAMES[kind] for kind in NAMES if isinstance(layer, kind)), {})
        for name, p in layer.named_parameters(recurse=False):
            name = names.get(name, name)
            named[f"{path}.{name}" if path else name] = p
    return named


def to_numpy_layout(name, p):
    """A torch parameter called `name`, or its gradient, in npdiff's layout: a view.

    W of linear (O, I) -> (I, O), of a convolution (O, I, kh, kw) -> (kh, kw, I, O)
    """
    if name.endswith(".W"):
        return p.T if p.ndim == 2 else p.permute(2, 3, 1, 0)
    return p


def from_numpy_layout(name, p):
    """The inverse of to_numpy_layout: a view."""
    if name.endswith(".W"):
        return p.T if p.ndim == 2 else p.permute(3, 2, 0, 1)
    return p


def channels_last(y):
    """A layer's output as npdiff holds it inside: images (N, C, H, W) -> (N, H, W, C), others as they are."""
    return y.permute(0, 2, 3, 1) if y.ndim == 4 else y
