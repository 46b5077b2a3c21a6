# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Random textures, so that neither a colour nor a flat fill gives a class away."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["background", "degrade", "fill"]

Rng = np.random.Generator


def _noise(rng: Rng, height: int, width: int, cells: float, channels: int = 1) -> np.ndarray:
    """Smooth noise in about -1 … 1, float32 (H, W, channels), with ``cells`` bumps a side."""
    rows = max(2, round(cells * height / max(height, width)))
    columns = max(2, round(cells * width / max(height, width)))
    grid = rng.uniform(-1, 1, (rows, columns, channels)).astype(np.float32)
    out = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return out.reshape(height, width, channels)


def _stripes(rng: Rng, height: int, width: int, period: float) -> np.ndarray:
    """Waves in -1 … 1, float32 (H, W, 1), in a random direction."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period) + phase)
    return wave[..., None].astype(np.float32)


def _texture(rng: Rng, height: int, width: int, mean: np.ndarray, contrast: float) -> np.ndarray:
    out = np.broadcast_to(mean.astype(np.float32), (height, width, 3)).copy()
    tint = rng.uniform(-1, 1, 3).astype(np.float32)
    out += contrast * _noise(rng, height, width, rng.uniform(2, 5), 3)
    kind = rng.integers(0, 4)
    if kind == 0:
        out += contrast * tint * _stripes(rng, height, width, rng.uniform(5, 24))
    elif kind == 1:
        checks = _stripes(rng, height, width, 14.0) * _stripes(rng, height, width, 14.0)
        out += contrast * tint * np.sign(checks)
    elif kind == 2:
        grain = _noise(rng, height, width, max(height, width) / rng.uniform(2, 6))
        out += contrast * grain
    return out


def background(rng: Rng, height: int, width: int) -> np.ndarray:
    """A scene without objects: float32 (H, W, 3), RGB, roughly 0 … 255."""
    image = _texture(rng, height, width, rng.uniform(50, 205, 3), rng.uniform(15, 45))
    if rng.random() < 0.5:  # a second material behind a wavy border
        other = _texture(rng, height, width, rng.uniform(50, 205, 3), rng.uniform(15, 45))
        border = _noise(rng, height, width, rng.uniform(2, 4)) > rng.uniform(-0.3, 0.3)
        image = np.where(border, other, image)
    return image


def fill(rng: Rng, behind: np.ndarray) -> np.ndarray:
    """A texture for an object in front of ``behind`` that can be seen against it.

    Args:
        behind: float32 (H, W, 3).

    Returns:
        float32 (H, W, 3), RGB.
    """
    mean = behind.reshape(-1, 3).mean(axis=0)
    color = rng.uniform(20, 235, 3)
    for _ in range(8):
        if np.abs(color - mean).max() > 60:
            break
        color = rng.uniform(20, 235, 3)
    height, width = behind.shape[:2]
    return _texture(rng, height, width, color, rng.uniform(5, 30))


def degrade(rng: Rng, image: np.ndarray) -> np.ndarray:
    """What a camera adds: uneven light, sometimes blur, and noise. Returns uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    image = image * (1 + rng.uniform(0, 0.3) * _noise(rng, height, width, 2))
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 0.8)))
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return (image + rng.uniform(1, 7) * grain).clip(0, 255).round().astype(np.uint8)
