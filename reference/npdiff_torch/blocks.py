"""npdiff.models.blocks in torch modules, called in the same order.

N batch, E embedding entries; images (N, C, H, W), torch's own layout

Every layer that is a pair in npdiff.nn is a module without children here, so that npdiff compare can set
their outputs side by side. Gradients are deterministic on CUDA too, which torch.use_deterministic_algorithms
enforces: averaging pools, embeddings and upsampling by "nearest" sum in a fixed order there, where adaptive
pools or upsampling by "bilinear" would add in whichever order their threads arrive, and are refused.
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
    return nn.GroupNorm(groups, channels, eps=EPS)


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
        scale = (C // self.heads) ** -0.5
        # (N, h, P, d) each
        q, k, v = qkv.reshape(N, P, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(2, 3) * scale).softmax(3)                                          # (N, h, P, P)
        return (a @ v).transpose(1, 2).reshape(N, P, C)


class ImageNetwork(nn.Module):
    """What image networks share: condition, npdiff.models.blocks.condition_forward.

    t (N,), labels (N,) or None for "no label" -> e (N, E)
    """

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
        e = self.time(t)                                                                        # (N, E)
        if self.config.classes:
            e = e + self.label(torch.full_like(t, self.config.classes) if labels is None else labels)
        return e


class ResidualBlock(nn.Module):
    """x (N, I, H, W), e (N, E) -> (N, O, H, W)"""

    def __init__(self, inputs, outputs, config):
        super().__init__()
        self.norm1, self.norm1_silu, self.conv1 = (
            norm(config.groups, inputs),
            nn.SiLU(),
            conv(inputs, outputs),
        )
        self.time, self.add = nn.Linear(config.embedding_dim, outputs), AddChannels()
        self.norm2, self.norm2_silu, self.conv2 = (
            norm(config.groups, outputs),
            nn.SiLU(),
            conv(outputs, outputs),
        )
        self.shortcut = conv(inputs, outputs, k=1) if inputs != outputs else None

    def forward(self, x, e):
        h = self.conv1(self.norm1_silu(self.norm1(x)))                                          # (N, O, H, W)
        h = self.add(h, self.time(e))
        h = self.conv2(self.norm2_silu(self.norm2(h)))
        return (self.shortcut(x) if self.shortcut else x) + h


class PlainBlock(nn.Module):
    """x (N, I, H, W), e (N, E) -> (N, O, H, W)"""

    def __init__(self, inputs, outputs, config):
        super().__init__()
        self.conv1, self.norm1, self.norm1_silu = (
            conv(inputs, outputs),
            norm(config.groups, outputs),
            nn.SiLU(),
        )
        self.time, self.add = nn.Linear(config.embedding_dim, outputs), AddChannels()
        self.conv2, self.norm2, self.norm2_silu = (
            conv(outputs, outputs),
            norm(config.groups, outputs),
            nn.SiLU(),
        )

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
