"""The U-Net: the image is halved level by level, worked on at each size, and built up again with a look at what each level saw on the way down.

    down1 ----------------- skip -----------------> up1      N batch, C image channels, H x W positions, L levels, E embedding entries
      down2 ------------- skip -------------> up2            widths[l-1] channels at level l, whose side is size / 2^(l-1)
        ...                                 ...
          middle (level L)

Each stage is `blocks` blocks of npdiff.models.blocks, each told the time and the label, each followed by attention at the levels that have it.
Two settings are of note. The lecture's: size 32, widths (64, 128, 256), block_kind "plain", attention_levels 0. The full one, the default: size 28, which
halves to 14 and 7 without padding, residual blocks, attention at the lowest level.   Sources: Ronneberger et al. 2015; Ho et al. 2020, appendix B.
"""

from dataclasses import dataclass

from npdiff.models.blocks import (BLOCKS, attention_block_backward, attention_block_forward, check_condition, condition_backward, condition_forward,
                                  init_attention, init_block, init_condition, init_conv, init_norm, init_zero)
from npdiff.nn import (avg_pool_backward, avg_pool_forward, concat_backward, concat_forward, conv2d_backward, conv2d_forward, group_norm_backward,
                       group_norm_forward, silu_backward, silu_forward, upsample_backward, upsample_forward)


@dataclass(frozen=True)
class Config:
    """The sizes of the network."""
    channels: int = 1
    """Of an image: 1 grey, 3 colour."""
    size: int = 28
    """Height and width of an image; it must halve evenly from level to level."""
    widths: tuple[int, ...] = (32, 64, 64)
    """Channels at each level, from the full resolution down."""
    blocks: int = 1
    """Blocks in each stage."""
    block_kind: str = "residual"
    """residual: norm, SiLU, conv, twice, added to a shortcut. plain: conv, norm, SiLU, twice."""
    groups: int = 8
    """Groups of each normalisation; it must divide every width."""
    attention_levels: int = 1
    """The lowest so many levels attend; 0 for none."""
    heads: int = 4
    """Heads of each attention; it must divide the widths of the levels that attend."""
    skips: bool = True
    """Whether the way up sees what the way down saw."""
    time_dim: int = 64
    """Sines and cosines of the timestep, an even number."""
    embedding_dim: int = 128
    """Entries of the embedding of time and label that every block is told."""
    max_period: float = 10000.0
    """The slowest sine of the timestep's embedding turns about once in 2 pi max_period steps."""
    classes: int = 0
    """Kinds of image that labels name, 0..classes-1; the label `classes` means "no label". 0: the network takes no labels."""

    def __post_init__(self):
        for name in ("channels", "size", "blocks", "groups", "heads", "time_dim", "embedding_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_condition(self)
        if self.block_kind not in BLOCKS:
            raise ValueError(f"block_kind is {self.block_kind!r}; it must be one of {', '.join(BLOCKS)}")
        self.check_levels()

    def check_levels(self):
        """Refuse sizes, groups, heads and levels that do not fit together with a ValueError."""
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}; it must name at least one level of at least 1 channel")
        if self.size % 2 ** (self.levels - 1):
            raise ValueError(f"size is {self.size}; with {self.levels} levels it must be a multiple of {2 ** (self.levels - 1)}")
        if not 0 <= self.attention_levels <= self.levels:
            raise ValueError(f"attention_levels is {self.attention_levels}; it must lie in 0..{self.levels}")
        for level, width in enumerate(self.widths, start=1):
            if width % self.groups:
                raise ValueError(f"groups is {self.groups}; it must divide the {width} channels of level {level}")
            if self.attends(level) and width % self.heads:
                raise ValueError(f"heads is {self.heads}; it must divide the {width} channels of level {level}")

    @property
    def data_shape(self):
        """The shape of one sample."""
        return (self.channels, self.size, self.size)

    @property
    def levels(self):
        """How many resolutions there are."""
        return len(self.widths)

    def attends(self, level):
        """Whether this level, 1..levels, has attention."""
        return level > self.levels - self.attention_levels

    def stages(self):
        """(name, level, input channels) of every stage, in the order of forward."""
        w, L = (self.widths[0], *self.widths), self.levels         # w[l] channels at level l; w[0] is what the first convolution gives
        down = [(f"down{level}", level, w[level - 1]) for level in range(1, L)]
        up = [(f"up{level}", level, w[level + 1] + (w[level] if self.skips else 0)) for level in range(L - 1, 0, -1)]
        return [*down, ("middle", L, w[L - 1]), *up]


SMALL = Config(size=4, widths=(4, 8), groups=2, heads=2, time_dim=4, embedding_dim=5, classes=2)     # small enough to check every element


def init(config, rng):
    """Fresh float64 parameters, a dict of names: weights and biases uniform in +-1/sqrt(inputs of one output), scales 1, label vectors standard normal.

    Residual branches end in zeros, and so does a residual network, so that it starts as its shortcuts alone.
    """
    params = {}
    init_condition(params, config.time_dim, config.embedding_dim, config.classes, rng)
    init_conv(params, "conv_in", 3, config.channels, config.widths[0], rng)
    for name, level, inputs in config.stages():
        outputs = config.widths[level - 1]
        for k in range(1, config.blocks + 1):
            init_block(params, f"{name}.block{k}", inputs if k == 1 else outputs, outputs, config, rng)
            if config.attends(level):
                init_attention(params, f"{name}.attention{k}", outputs, rng)
    if config.block_kind == "residual":
        init_norm(params, "norm_out", config.widths[0])
    init_conv(params, "conv_out", 3, config.widths[0], config.channels, rng)
    if config.block_kind == "residual":
        init_zero(params, "conv_out")
    return params


def stage_forward(params, name, h, e, level, config):
    """All blocks of one stage.   h (N, H, W, I), e (N, E) -> h (N, H, W, O)"""
    block_forward, _ = BLOCKS[config.block_kind]
    caches = []
    for k in range(1, config.blocks + 1):
        h, block_cache = block_forward(params, f"{name}.block{k}", h, e, config.groups)                   # (N, H, W, O)
        attention_cache = None
        if config.attends(level):
            h, attention_cache = attention_block_forward(params, f"{name}.attention{k}", h, config.groups, config.heads)
        caches.append((block_cache, attention_cache))
    return h, (config, caches)


def stage_backward(dh, cache, grads, name):
    """dh (N, H, W, O) -> dh (N, H, W, I), de (N, E). Every block was told e, so its gradients add."""
    config, caches = cache
    _, block_backward = BLOCKS[config.block_kind]
    de = 0
    for k in range(config.blocks, 0, -1):
        block_cache, attention_cache = caches[k - 1]
        if attention_cache:
            dh = attention_block_backward(dh, attention_cache, grads, f"{name}.attention{k}")
        dh, de_block = block_backward(dh, block_cache, grads, f"{name}.block{k}")                         # (N, H, W, I), (N, E)
        de = de + de_block
    return dh, de


def forward(params, x, t, config, labels=None):
    """y = network(x, t, labels).   x (N, C, H, W), t (N,) integers, labels (N,) integers or None for "no label" -> y (N, C, H, W)

    Raises ValueError for images of another shape than config's, or labels that it does not have.
    """
    if x.shape[1:] != config.data_shape:
        raise ValueError(f"the images have shape {x.shape[1:]}; this network takes {config.data_shape}")
    e, condition_cache = condition_forward(params, t, labels, config, x.dtype)                            # (N, E)
    e, silu_cache = silu_forward(e)
    h = x.transpose(0, 2, 3, 1)                                                                           # (N, H, W, C)
    h, in_cache = conv2d_forward(h, params["conv_in.W"], params["conv_in.b"])
    skips, caches = {}, {}
    for name, level, _ in config.stages():
        if name.startswith("up"):
            h, caches[name, "upsample"] = upsample_forward(h)
            if config.skips:
                h, caches[name, "concat"] = concat_forward(h, skips.pop(level))
        h, caches[name] = stage_forward(params, name, h, e, level, config)
        if name.startswith("down"):
            skips[level] = h
            h, caches[name, "pool"] = avg_pool_forward(h)
    h, out_cache = head_forward(params, h, config)                                                        # (N, H, W, C)
    y = h.transpose(0, 3, 1, 2)                                                                           # (N, C, H, W)
    return y, (config, condition_cache, silu_cache, in_cache, caches, out_cache)


def backward(dy, cache):
    """dy (N, C, H, W) -> dx (N, C, H, W), gradients (a dict with the names of params). Each line undoes one line of forward, last line first."""
    config, condition_cache, silu_cache, in_cache, caches, out_cache = cache
    grads, dskips, de = {}, {}, 0
    dh = dy.transpose(0, 2, 3, 1)                                                                         # (N, H, W, C)
    dh = head_backward(dh, out_cache, grads)
    for name, level, _ in reversed(config.stages()):
        if name.startswith("down"):
            dh = avg_pool_backward(dh, caches[name, "pool"])
            if config.skips:
                dh = dh + dskips.pop(level)                        # h was used twice, below and by the skip: its gradients add
        dh, de_stage = stage_backward(dh, caches[name], grads, name)
        de = de + de_stage
        if name.startswith("up"):
            if config.skips:
                dh, dskips[level] = concat_backward(dh, caches[name, "concat"])
            dh = upsample_backward(dh, caches[name, "upsample"])
    dh, grads["conv_in.W"], grads["conv_in.b"] = conv2d_backward(dh, in_cache)                            # (N, H, W, C)
    dx = dh.transpose(0, 3, 1, 2)                                                                         # (N, C, H, W)
    de = silu_backward(de, silu_cache)
    condition_backward(de, condition_cache, grads)
    return dx, grads


def head_forward(params, h, config):
    """The last convolution, in a residual network after a norm and a SiLU of its own.   h (N, H, W, widths[0]) -> h (N, H, W, C)"""
    norm_cache, silu_cache = None, None
    if config.block_kind == "residual":
        h, norm_cache = group_norm_forward(h, params["norm_out.gamma"], params["norm_out.beta"], config.groups)
        h, silu_cache = silu_forward(h)
    h, conv_cache = conv2d_forward(h, params["conv_out.W"], params["conv_out.b"])                         # (N, H, W, C)
    return h, (norm_cache, silu_cache, conv_cache)


def head_backward(dh, cache, grads):
    """dh (N, H, W, C) -> dh (N, H, W, widths[0])"""
    norm_cache, silu_cache, conv_cache = cache
    dh, grads["conv_out.W"], grads["conv_out.b"] = conv2d_backward(dh, conv_cache)                        # (N, H, W, widths[0])
    if norm_cache:
        dh = silu_backward(dh, silu_cache)
        dh, grads["norm_out.gamma"], grads["norm_out.beta"] = group_norm_backward(dh, norm_cache)
    return dh
