"""The U-Net: the image is halved level by level and then doubled again, with a convolutional block at every
size.

    down1 ----------------- skip -----------------> up1      N batch, C image channels, H x W positions
      down2 ------------- skip -------------> up2            L levels, E embedding entries
        ...                                 ...              level l has widths[l-1] channels
          middle (level L)                                   and the side size / 2^(l-1)

A skip gives the way up what the way down saw at the same size. Each stage is `blocks` blocks of
npdiff.models.blocks. Each block is told the time and the label, and attention follows it at the levels that
have it. The lecture's U-Net is size 32, widths (64, 128, 256), block_kind "plain", attention_levels 0. The
default is the full one: size 28, which halves to 14 and 7, residual blocks, attention at the lowest level.
Sources: [Ronneberger et al. 2015](https://arxiv.org/abs/1505.04597); Ho et al. 2020, appendix B.
"""

from dataclasses import dataclass

from npdiff.models.blocks import (
    BLOCKS,
    attention_block_backward,
    attention_block_forward,
    condition_backward,
    condition_forward,
    init_attention,
    init_block,
    init_condition,
)
from npdiff.models.checks import check_at_least, check_image, check_time, check_types, check_widths
from npdiff.models.layers import (
    concat,
    concat_back,
    conv,
    conv_back,
    init_conv,
    init_norm,
    init_zero,
    norm,
    norm_back,
    pool,
    pool_back,
    silu,
    silu_back,
    upsample,
    upsample_back,
)


@dataclass(frozen=True)
class Config:
    """The sizes of the network. Raises ValueError for sizes that no network has."""
    channels: int = 1                           # of an image: 1 grey, 3 colour
    size: int = 28                              # height and width of an image; it must halve at every level
    widths: tuple[int, ...] = (32, 64, 64)      # channels at each level, from the full resolution down
    blocks: int = 1                             # blocks in each stage
    block_kind: str = "residual"                # residual, or plain: without shortcuts, conv before norm
    groups: int = 8                             # of each normalisation, each of at least two channels
    attention_levels: int = 1                   # this many of the lowest levels attend
    heads: int = 4                              # of each attention; it must divide the widths there
    skips: bool = True                          # whether the way up sees what the way down saw
    time_dim: int = 64                          # sines and cosines of the timestep, an even number
    embedding_dim: int = 128                    # entries of the embedding of time and label
    max_period: float = 10000.0                 # sets the slowest sine, see nn/embedding.py
    classes: int = 0                            # labels are 0..classes-1; 0: the network takes no labels

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "channels", "size", "blocks", "groups", "heads", "embedding_dim")
        check_at_least(self, 0, "classes", "attention_levels")
        check_widths(self, "widths")
        check_time(self)
        if self.block_kind not in BLOCKS:
            raise ValueError(f"block_kind is {self.block_kind!r}; it must be one of {', '.join(BLOCKS)}")
        self.check_levels()

    def check_levels(self):
        """Raise ValueError unless sizes, groups, heads and levels fit together.

        Time and label are added to each channel before a norm. The norm makes the mean of a group 0 and its
        variance 1. So of one channel it takes away all that was added, and of two channels at one position it
        leaves only which is larger: the network would not see t.
        """
        multiple = 2 ** (self.levels - 1)
        if self.size % multiple:
            raise ValueError(f"size is {self.size}; "
                             f"with {self.levels} levels it must be a multiple of {multiple}: "
                             "pad or cut the images, or name fewer widths")
        if self.attention_levels > self.levels:
            raise ValueError(f"attention_levels is {self.attention_levels}; it must lie in 0..{self.levels}")
        for level, width in enumerate(self.widths, start=1):
            if width % self.groups:
                raise ValueError(f"groups is {self.groups}; "
                                 f"it must divide the {width} channels of level {level}")
            least = 3 if self.size == 2 ** (level - 1) else 2       # channels in a group; 3 at one position
            if width // self.groups < least:
                raise ValueError(f"groups is {self.groups}, too many for {width} channels at level {level}: "
                                 "their norm takes away what time and label add; groups must be at most "
                                 f"{width // least}, or the channels at least {least * self.groups}")
            if self.attends(level) and width % self.heads:
                raise ValueError(f"heads is {self.heads}; "
                                 f"it must divide the {width} channels of level {level}")

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
        L, w = self.levels, (self.widths[0], *self.widths)      # w[l]: channels at level l; w[0]: of conv_in
        down = [(f"down{level}", level, w[level - 1]) for level in range(1, L)]
        up = [(f"up{level}", level, w[level + 1] + (w[level] if self.skips else 0))
              for level in range(L - 1, 0, -1)]
        return [*down, ("middle", L, w[L - 1]), *up]


# small enough to check every gradient
SMALL = Config(size=4, widths=(4, 8), groups=2, heads=2, time_dim=4, embedding_dim=5, classes=2)


def init(config, rng):
    """Fresh float64 parameters by name, as in init_condition, init_conv, init_block and init_attention.

    The last layer of every residual branch starts at zero, and so does that of a residual network: at the
    start each block answers its shortcut, and the network answers 0.
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


def forward(params, x, t, config, labels=None):
    """y = network(x, t, labels).   x (N, C, H, W), t (N,), labels (N,) or None -> y (N, C, H, W), cache

    labels None means "no label". Raises ValueError for images of another shape than config's, or wrong
    labels.
    """
    check_image(x, config)
    cache, skips = {}, {}
    e = condition_forward(params, t, labels, cache, config, x.dtype)            # (N, E)
    e = silu(e, cache, "condition.silu")
    h = x.transpose(0, 2, 3, 1)                                                 # (N, H, W, C)
    h = conv(h, params, cache, "conv_in")                                       # (N, H, W, widths[0])
    for name, level, _ in config.stages():
        if name.startswith("up"):
            h = upsample(h, cache, f"{name}.upsample")
            if config.skips:
                h = concat(h, skips.pop(level), cache, f"{name}.concat")
        h = stage_forward(h, e, params, cache, name, level, config)
        if name.startswith("down"):
            skips[level] = h
            h = pool(h, cache, f"{name}.pool")
    h = head_forward(h, params, cache, config)                                  # (N, H, W, C)
    y = h.transpose(0, 3, 1, 2)                                                 # (N, C, H, W)
    return y, cache


def backward(dy, cache, config):
    """dy (N, C, H, W) -> dx (N, C, H, W), grads. Each line is one of forward's, backward; the last first."""
    grads, dskips, de = {}, {}, 0
    dh = dy.transpose(0, 2, 3, 1)                                               # (N, H, W, C)
    dh = head_backward(dh, cache, grads, config)                                # (N, H, W, widths[0])
    for name, level, _ in reversed(config.stages()):
        if name.startswith("down"):
            dh = pool_back(dh, cache, f"{name}.pool")
            if config.skips:
                dh = dh + dskips.pop(level)             # h is used twice: gradients add
        dh, de_stage = stage_backward(dh, cache, grads, name, level, config)
        de = de + de_stage                              # every stage is told e: gradients add
        if name.startswith("up"):
            if config.skips:
                dh, dskips[level] = concat_back(dh, cache, f"{name}.concat")
            dh = upsample_back(dh, cache, f"{name}.upsample")
    dh = conv_back(dh, cache, grads, "conv_in")                                 # (N, H, W, C)
    dx = dh.transpose(0, 3, 1, 2)                                               # (N, C, H, W)
    de = silu_back(de, cache, "condition.silu")
    condition_backward(de, cache, grads, config)
    return dx, grads


def stage_forward(h, e, params, cache, name, level, config):
    """All blocks of one stage.   h (N, H, W, I), e (N, E) -> h (N, H, W, O)"""
    block_forward, _ = BLOCKS[config.block_kind]
    for k in range(1, config.blocks + 1):
        h = block_forward(h, e, params, cache, f"{name}.block{k}", config)      # (N, H, W, O)
        if config.attends(level):
            h = attention_block_forward(h, params, cache, f"{name}.attention{k}", config)
    return h


def stage_backward(dh, cache, grads, name, level, config):
    """dh (N, H, W, O) -> dh (N, H, W, I), de (N, E). Every block is told e, so its gradients add."""
    _, block_backward = BLOCKS[config.block_kind]
    de = 0
    for k in range(config.blocks, 0, -1):
        if config.attends(level):
            dh = attention_block_backward(dh, cache, grads, f"{name}.attention{k}", config)
        dh, de_block = block_backward(dh, cache, grads, f"{name}.block{k}", config)
        de = de + de_block                                                      # (N, H, W, I), (N, E)
    return dh, de


def head_forward(h, params, cache, config):
    """Norm and SiLU in a residual network; the last convolution.   (N, H, W, widths[0]) -> (N, H, W, C)"""
    if config.block_kind == "residual":
        h = norm(h, params, cache, "norm_out", config.groups)
        h = silu(h, cache, "norm_out.silu")
    return conv(h, params, cache, "conv_out")                                   # (N, H, W, C)


def head_backward(dh, cache, grads, config):
    """dh (N, H, W, C) -> dh (N, H, W, widths[0])"""
    dh = conv_back(dh, cache, grads, "conv_out")                                # (N, H, W, widths[0])
    if config.block_kind == "residual":
        dh = silu_back(dh, cache, "norm_out.silu")
        dh = norm_back(dh, cache, grads, "norm_out")
    return dh
