# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A small invertible network that learns a density in the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["RealNVP"]


class RealNVP(nn.Module):
    """Real NVP (Dinh et al., "Density estimation using Real NVP", ICLR 2017) in two dimensions.

    Affine couplings between the plane and a standard normal distribution: each moves and scales one
    coordinate by amounts that a small network makes from the other, so that every step can be undone
    and its Jacobian is known. Steps take turns with the two coordinates.
    """

    def __init__(self, *, steps: int = 6, width: int = 64) -> None:
        """
        Args:
            steps: number of couplings.
            width: of the two hidden layers of each network.
        """
        super().__init__()
        self.scales = nn.ModuleList(_network(width, nn.Tanh()) for _ in range(steps))
        self.shifts = nn.ModuleList(_network(width, nn.Identity()) for _ in range(steps))

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 2) points of the plane from (N, 2) points of the normal distribution."""
        x = latent
        for step in range(len(self.scales)):
            kept, moved = step % 2, 1 - step % 2
            scale, shift = self._coupling(step, x[:, kept])
            x = _put(moved, x[:, moved] * scale.exp() + shift, x[:, kept])
        return x

    def inverse(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` makes ``points`` (N, 2) from.

        Returns:
            (N, 2), and (N,) log of the inverse's Jacobian determinant.
        """
        x, log_determinant = points, points.new_zeros(len(points))
        for step in reversed(range(len(self.scales))):
            kept, moved = step % 2, 1 - step % 2
            scale, shift = self._coupling(step, x[:, kept])
            x = _put(moved, (x[:, moved] - shift) * (-scale).exp(), x[:, kept])
            log_determinant = log_determinant - scale
        return x, log_determinant

    def log_density(self, points: Tensor) -> Tensor:
        """(N,) log of the density at (N, 2) points; it integrates to 1 over the plane."""
        latent, log_determinant = self.inverse(points)
        return log_determinant - latent.square().sum(dim=1) / 2 - math.log(2 * math.pi)

    def _coupling(self, step: int, kept: Tensor) -> tuple[Tensor, Tensor]:
        column = kept[:, None]
        return self.scales[step](column)[:, 0], self.shifts[step](column)[:, 0]


def _put(moved: int, value: Tensor, kept: Tensor) -> Tensor:
    return torch.stack([value, kept] if moved == 0 else [kept, value], dim=1)


def _network(width: int, last: nn.Module) -> nn.Sequential:
    layers = [nn.Linear(1, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU()]
    output = nn.Linear(width, 1)
    # Every step starts as the identity: a normal density.
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return nn.Sequential(*layers, output, last)
