"""The network of three convolutions as a torch module. It mirrors npdiff/models/convnet.py."""

from torch import nn

from npdiff_torch.blocks import AddChannels, ImageNetwork, conv


class ConvNet(ImageNetwork):
    """x (N, C, H, W), t (N,), labels (N,) or None for "no label" -> (N, C, H, W)"""

    def __init__(self, config):
        super().__init__(config, config.features)
        self.conv1, self.conv1_silu = conv(config.channels, config.features), nn.SiLU()
        self.add = AddChannels()
        self.conv2, self.conv2_silu = conv(config.features, config.features), nn.SiLU()
        self.conv3 = conv(config.features, config.channels)

    def forward(self, x, t, labels=None):
        e = self.condition(t, labels)                                                           # (N, F)
        h = self.conv1_silu(self.conv1(x))                                                      # (N, F, H, W)
        h = self.add(h, e)
        h = self.conv2_silu(self.conv2(h))
        return self.conv3(h)
