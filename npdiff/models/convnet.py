"""The network of the FashionMNIST lab: three 3 x 3 convolutions at full resolution.   N batch, C image channels, H x W positions, F features

    conv -> SiLU -> add the embedding of t (and of the label) to every position -> conv -> SiLU -> conv -> y in the shape of x

An output sees 7 x 7 pixels and no more: enough to tell noise from texture, not to know a shoe. That is what unet.py is for.
"""

from dataclasses import dataclass

from npdiff.models.blocks import check_condition, condition_backward, condition_forward, init_condition, init_conv
from npdiff.nn import add_channels_backward, add_channels_forward, conv2d_backward, conv2d_forward, silu_backward, silu_forward


@dataclass(frozen=True)
class Config:
    """The sizes of the network."""
    channels: int = 1
    """Of an image: 1 grey, 3 colour."""
    size: int = 28
    """Height and width of an image."""
    features: int = 64
    """Channels inside, and entries of the embedding."""
    time_dim: int = 64
    """Sines and cosines of the timestep, an even number."""
    max_period: float = 10000.0
    """The slowest sine of the timestep's embedding turns about once in 2 pi max_period steps."""
    classes: int = 0
    """Kinds of image that labels name, 0..classes-1; the label `classes` means "no label". 0: the network takes no labels."""

    def __post_init__(self):
        for name in ("channels", "size", "features", "time_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_condition(self)

    @property
    def data_shape(self):
        """The shape of one sample."""
        return (self.channels, self.size, self.size)


SMALL = Config(size=4, features=3, time_dim=4, classes=2)      # small enough to check the gradient of every element


def init(config, rng):
    """Fresh float64 parameters, a dict of names: weights and biases uniform in +-1/sqrt(inputs of one output), label vectors standard normal."""
    params = {}
    init_condition(params, config.time_dim, config.features, config.classes, rng)
    init_conv(params, "conv1", 3, config.channels, config.features, rng)
    init_conv(params, "conv2", 3, config.features, config.features, rng)
    init_conv(params, "conv3", 3, config.features, config.channels, rng)
    return params


def forward(params, x, t, config, labels=None):
    """y = network(x, t, labels).   x (N, C, H, W), t (N,) integers, labels (N,) integers or None for "no label" -> y (N, C, H, W)

    Raises ValueError for images of another shape than config's, or labels that it does not have.
    """
    if x.shape[1:] != config.data_shape:
        raise ValueError(f"the images have shape {x.shape[1:]}; this network takes {config.data_shape}")
    e, condition_cache = condition_forward(params, t, labels, config, x.dtype)         # (N, F)
    h = x.transpose(0, 2, 3, 1)                                                        # (N, H, W, C)
    h, conv1_cache = conv2d_forward(h, params["conv1.W"], params["conv1.b"])           # (N, H, W, F)
    h, silu1_cache = silu_forward(h)
    h, add_cache = add_channels_forward(h, e)
    h, conv2_cache = conv2d_forward(h, params["conv2.W"], params["conv2.b"])           # (N, H, W, F)
    h, silu2_cache = silu_forward(h)
    h, conv3_cache = conv2d_forward(h, params["conv3.W"], params["conv3.b"])           # (N, H, W, C)
    y = h.transpose(0, 3, 1, 2)                                                        # (N, C, H, W)
    return y, (condition_cache, conv1_cache, silu1_cache, add_cache, conv2_cache, silu2_cache, conv3_cache)


def backward(dy, cache):
    """dy (N, C, H, W) -> dx (N, C, H, W), gradients (a dict with the names of params). Each line undoes one line of forward, last line first."""
    condition_cache, conv1_cache, silu1_cache, add_cache, conv2_cache, silu2_cache, conv3_cache = cache
    grads = {}
    dh = dy.transpose(0, 2, 3, 1)                                                      # (N, H, W, C)
    dh, grads["conv3.W"], grads["conv3.b"] = conv2d_backward(dh, conv3_cache)          # (N, H, W, F)
    dh = silu_backward(dh, silu2_cache)
    dh, grads["conv2.W"], grads["conv2.b"] = conv2d_backward(dh, conv2_cache)          # (N, H, W, F)
    dh, de = add_channels_backward(dh, add_cache)                                      # (N, H, W, F), (N, F)
    dh = silu_backward(dh, silu1_cache)
    dh, grads["conv1.W"], grads["conv1.b"] = conv2d_backward(dh, conv1_cache)          # (N, H, W, C)
    dx = dh.transpose(0, 3, 1, 2)                                                      # (N, C, H, W)
    condition_backward(de, condition_cache, grads)
    return dx, grads
