"""The network of the moons as a torch module. It mirrors npdiff/models/mlp.py."""

import torch
from torch import nn

from npdiff.nn.embedding import frequencies


class TimeEmbedding(nn.Module):
    """npdiff.nn.sinusoidal_embedding.   t (N,) -> (N, dim)"""

    def __init__(self, dim, max_period):
        super().__init__()
        self.register_buffer("w", torch.tensor(frequencies(dim, max_period)))       # (1, dim/2)

    def forward(self, t):
        angle = (t[:, None] - 1).to(self.w.dtype) * self.w                          # (N, dim/2)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Fourier(nn.Module):
    """npdiff.nn.fourier_forward.   x (N, D) -> (N, 2F)"""

    def __init__(self, data_dim, features):
        super().__init__()
        self.B = nn.Parameter(torch.empty(data_dim, features))

    def forward(self, x):
        angle = x @ self.B                                                          # (N, F)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class MLP(nn.Module):
    """x (N, D), t (N,) -> (N, D)"""

    def __init__(self, config):
        super().__init__()
        self.time = TimeEmbedding(config.time_dim, config.max_period)
        if config.fourier_features:
            self.fourier = Fourier(config.data_dim, config.fourier_features)
        self.depth = len(config.hidden) + 1
        for k, (inputs, outputs) in enumerate(zip(config.widths[:-1], config.widths[1:]), start=1):
            setattr(self, f"linear{k}", nn.Linear(inputs, outputs))
            if k < self.depth:
                setattr(self, f"linear{k}_silu", nn.SiLU())

    def forward(self, x, t):
        time = self.time(t)
        inputs = [x, self.fourier(x), time] if hasattr(self, "fourier") else [x, time]
        h = torch.cat(inputs, dim=1)
        for k in range(1, self.depth):
            h = getattr(self, f"linear{k}_silu")(getattr(self, f"linear{k}")(h))
        return getattr(self, f"linear{self.depth}")(h)
