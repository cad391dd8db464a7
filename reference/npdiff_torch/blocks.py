"""The blocks of image networks as torch modules. They mirror npdiff/models/blocks.py, in the same order.

N batch, E embedding entries, I and O channels in and out. Images are (N, C, H, W), torch's layout.

Every layer that is a pair in npdiff.nn is a module without children here. So `npdiff compare` can compare
their outputs one by one.

Gradients are deterministic on CUDA too: torch.use_deterministic_algorithms refuses layers that are not.
Average pools, embeddings and upsampling by "nearest" add in a fixed order there. Adaptive pools and
upsampling by "bilinear" add in the order in which threads finish, and would be refused.
"""

from collections import OrderedDict

import torch
from torch import nn

from npdiff.nn.norm import EPS
from npdiff_torch.mlp import TimeEmbedding


def conv(inputs, outputs, k=3):
    """npdiff.nn.conv2d_forward: the image keeps its size."""
    return nn.Conv2d(inputs, outputs, k, padding=k // 2)


def norm(groups, channels):
    """npdiff.nn.group_norm_forward."""
    return GroupNorm(groups, channels, eps=EPS)


class GroupNorm(nn.GroupNorm):
    """torch's. Its own forward refuses groups of one value, which npdiff's takes: their norm is 0."""

    def forward(self, x):
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class AddChannels(nn.Module):
    """npdiff.nn.add_channels_forward.   x (N, C, H, W), e (N, C) -> (N, C, H, W)"""

    def forward(self, x, e):
        return x + e[:, :, None, None]


class Concat(nn.Module):
    """npdiff.nn.concat_forward.   x (N, A, H, W), skip (N, B, H, W) -> (N, A + B, H, W)"""

    def forward(self, x, skip):
        return torch.cat([x, skip], dim=1)


class Attention(nn.Module):
    """npdiff.nn.attention_forward.   qkv (N, P, 3C) -> (N, P, C)"""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads

    def forward(self, qkv):
        N, P, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        d = C // self.heads
        q, k, v = qkv.reshape(N, P, 3, self.heads, d).permute(2, 0, 3, 1, 4)                    # (N, h, P, d)
        a = (q @ k.transpose(2, 3) * d ** -0.5).softmax(3)                                      # (N, h, P, P)
        return (a @ v).transpose(1, 2).reshape(N, P, C)


class ImageNetwork(nn.Module):
    """What image networks share: npdiff.models.blocks.condition_forward, of the timestep and the label."""

    def __init__(self, config, embedding_dim):
        super().__init__()
        self.config = config
        self.time = nn.Sequential(
            OrderedDict(
                sinusoids=TimeEmbedding(config.time_dim, config.max_period),
                linear1=nn.Linear(config.time_dim, embedding_dim),
                linear1_silu=nn.SiLU(),
                linear2=nn.Linear(embedding_dim, embedding_dim),
            )
        )
        if config.classes:
            self.label = nn.Embedding(config.classes + 1, embedding_dim)

    def condition(self, t, labels):
        """t (N,), labels (N,) or None for "no label" -> e (N, E)"""
        e = self.time(t)                                                                        # (N, E)
        if self.config.classes:
            if labels is None:
                labels = torch.full_like(t, self.config.classes)
            e = e + self.label(labels)
        return e


class ResidualBlock(nn.Module):
    """x (N, I, H, W), e (N, E) -> (N, O, H, W)"""

    def __init__(self, inputs, outputs, config):
        super().__init__()
        self.norm1, self.norm1_silu = norm(config.groups, inputs), nn.SiLU()
        self.conv1 = conv(inputs, outputs)
        self.time, self.add = nn.Linear(config.embedding_dim, outputs), AddChannels()
        self.norm2, self.norm2_silu = norm(config.groups, outputs), nn.SiLU()
        self.conv2 = conv(outputs, outputs)
        self.shortcut = conv(inputs, outputs, k=1) if inputs != outputs else None

    def forward(self, x, e):
        h = self.conv1(self.norm1_silu(self.norm1(x)))                                          # (N, O, H, W)
        h = self.add(h, self.time(e))
        h = self.conv2(self.norm2_silu(self.norm2(h)))
        shortcut = self.shortcut(x) if self.shortcut else x
        return shortcut + h


class PlainBlock(nn.Module):
    """x (N, I, H, W), e (N, E) -> (N, O, H, W)"""

    def __init__(self, inputs, outputs, config):
        super().__init__()
        self.conv1 = conv(inputs, outputs)
        self.norm1, self.norm1_silu = norm(config.groups, outputs), nn.SiLU()
        self.time, self.add = nn.Linear(config.embedding_dim, outputs), AddChannels()
        self.conv2 = conv(outputs, outputs)
        self.norm2, self.norm2_silu = norm(config.groups, outputs), nn.SiLU()

    def forward(self, x, e):
        h = self.norm1_silu(self.norm1(self.conv1(x)))                                          # (N, O, H, W)
        h = self.add(h, self.time(e))
        return self.norm2_silu(self.norm2(self.conv2(h)))


class AttentionBlock(nn.Module):
    """x (N, C, H, W) -> (N, C, H, W)"""

    def __init__(self, channels, config):
        super().__init__()
        self.norm, self.qkv = norm(config.groups, channels), nn.Linear(channels, 3 * channels)
        self.attention, self.out = Attention(config.heads), nn.Linear(channels, channels)

    def forward(self, x):
        N, C, H, W = x.shape
        h = self.norm(x).permute(0, 2, 3, 1)                                                    # (N, H, W, C)
        h = self.qkv(h.reshape(N * H * W, C))                                                   # (N HW, 3C)
        h = self.attention(h.reshape(N, H * W, 3 * C))                                          # (N, HW, C)
        h = self.out(h.reshape(N * H * W, C))                                                   # (N HW, C)
        return x + h.reshape(N, H, W, C).permute(0, 3, 1, 2)


BLOCKS = {"residual": ResidualBlock, "plain": PlainBlock}
