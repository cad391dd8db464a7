"""The U-Net as a torch module. It mirrors npdiff/models/unet.py."""

from torch import nn

from npdiff_torch.blocks import BLOCKS, AttentionBlock, Concat, ImageNetwork, conv, norm


class Stage(nn.Module):
    """All blocks of one stage.   h (N, I, H, W), e (N, E) -> (N, O, H, W)"""

    def __init__(self, level, inputs, config):
        super().__init__()
        self.blocks = config.blocks
        outputs = config.widths[level - 1]
        block_class = BLOCKS[config.block_kind]
        for k in range(1, config.blocks + 1):
            setattr(self, f"block{k}", block_class(inputs if k == 1 else outputs, outputs, config))
            attention = AttentionBlock(outputs, config) if config.attends(level) else None
            setattr(self, f"attention{k}", attention)

    def forward(self, h, e):
        for k in range(1, self.blocks + 1):
            h = getattr(self, f"block{k}")(h, e)                                                # (N, O, H, W)
            attention = getattr(self, f"attention{k}")
            if attention:
                h = attention(h)
        return h


class UNet(ImageNetwork):
    """x (N, C, H, W), t (N,), labels (N,) or None for "no label" -> (N, C, H, W)"""

    def __init__(self, config):
        super().__init__(config, config.embedding_dim)
        self.condition_silu = nn.SiLU()
        self.conv_in = conv(config.channels, config.widths[0])
        for name, level, inputs in config.stages():
            stage = Stage(level, inputs, config)
            if name.startswith("up"):
                stage.upsample, stage.concat = nn.Upsample(scale_factor=2, mode="nearest"), Concat()
            if name.startswith("down"):
                stage.pool = nn.AvgPool2d(2)
            setattr(self, name, stage)
        if config.block_kind == "residual":
            self.norm_out, self.norm_out_silu = norm(config.groups, config.widths[0]), nn.SiLU()
        self.conv_out = conv(config.widths[0], config.channels)

    def forward(self, x, t, labels=None):
        e = self.condition_silu(self.condition(t, labels))                                      # (N, E)
        h = self.conv_in(x)                                                                     # (N, O, H, W)
        skips = {}
        for name, level, _ in self.config.stages():
            stage = getattr(self, name)
            if name.startswith("up"):
                h = stage.upsample(h)
                if self.config.skips:
                    h = stage.concat(h, skips.pop(level))
            h = stage(h, e)
            if name.startswith("down"):
                skips[level] = h
                h = stage.pool(h)
        if self.config.block_kind == "residual":
            h = self.norm_out_silu(self.norm_out(h))
        return self.conv_out(h)
