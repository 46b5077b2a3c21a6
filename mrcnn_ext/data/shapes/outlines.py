# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The classes of the synthetic set: random outlines that only their shape tells apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .crane import crane
from .figure import figure
from .raster import Outline

__all__ = ["DISTRACTORS", "SHAPES", "random_outline"]

Rng = np.random.Generator


def _closed(number: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, number, endpoint=False)


def _polar(angles: np.ndarray, radii: np.ndarray | float) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def _ring(rng: Rng) -> Outline:
    angles = _closed(96)
    hole = _polar(angles, rng.uniform(0.4, 0.78))
    return Outline.from_rings(_polar(angles, 1.0), hole + rng.uniform(-0.1, 0.1, 2))


def _star(rng: Rng) -> Outline:
    points = int(rng.integers(5, 9))
    radii = np.tile([1.0, rng.uniform(0.32, 0.52)], points)
    return Outline.from_rings(_polar(_closed(2 * points), radii))


def _gear(rng: Rng) -> Outline:
    teeth = int(rng.integers(7, 13))
    pitch = 2 * np.pi / teeth
    # A tooth: up, along, down, along; narrower at its tip.
    offsets = np.array([0.0, 0.1, 0.4, 0.5]) * pitch
    angles = (np.arange(teeth)[:, None] * pitch + offsets).ravel()
    radii = np.tile([rng.uniform(0.7, 0.8), 1.0, 1.0, 0.0], teeth)
    radii[3::4] = radii[0::4]
    return Outline.from_rings(_polar(angles, radii), _polar(_closed(48), rng.uniform(0.2, 0.38)))


def _crescent(rng: Rng) -> Outline:
    # The part of the unit circle outside a second circle, whose centre lies at (shift, 0).
    radius = rng.uniform(0.75, 0.98)
    shift = rng.uniform(max(0.35, 1.08 - radius), 0.6)
    x = (1 + shift**2 - radius**2) / (2 * shift)
    outer_end = np.arccos(x)
    inner_end = np.arctan2(np.sqrt(1 - x**2), x - shift)
    outer = _polar(np.linspace(outer_end, 2 * np.pi - outer_end, 60), 1.0)
    inner = _polar(np.linspace(2 * np.pi - inner_end, inner_end, 60), radius) + (shift, 0)
    return Outline.from_rings(np.concatenate([outer, inner]))


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _fork(rng: Rng) -> Outline:
    tines = int(rng.integers(3, 5))
    thickness, width = rng.uniform(0.07, 0.12), rng.uniform(0.7, 1.0)
    neck = rng.uniform(-0.1, 0.2)
    rings = [_rectangle(-thickness, neck, thickness, 1.0)]
    rings.append(_rectangle(-width / 2, neck, width / 2, neck + 2 * thickness))
    for x in np.linspace(-width / 2, width / 2 - thickness, tines):
        rings.append(_rectangle(x, -1.0, x + thickness, neck + thickness))
    return Outline(tuple((ring,) for ring in rings))


def _ribbon(rng: Rng) -> Outline:
    t = np.linspace(0, 1, 80)
    waves, height = rng.uniform(0.8, 2.0), rng.uniform(0.3, 0.7)
    middle = np.stack([2 * t - 1, height * np.sin(2 * np.pi * waves * t + rng.uniform(0, 6.3))], 1)
    tangent = np.gradient(middle, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1)[:, None]
    half = rng.uniform(0.04, 0.1) * (1 + 0.3 * np.sin(np.pi * t))[:, None]
    return Outline.from_rings(
        np.concatenate([middle + half * normal, (middle - half * normal)[::-1]])
    )


def _blob(rng: Rng) -> Outline:
    angles = _closed(120)
    radii = np.ones_like(angles)
    for order in range(2, 6):  # each well above 0, or it could pass for an unlabelled disc
        radii += rng.uniform(0.5, 1) * 0.48 / order * np.cos(order * angles + rng.uniform(0, 6.3))
    return Outline.from_rings(_polar(angles, radii))


SHAPES: dict[str, Callable[[Rng], Outline]] = {
    "ring": _ring,
    "star": _star,
    "gear": _gear,
    "crescent": _crescent,
    "fork": _fork,
    "ribbon": _ribbon,
    "blob": _blob,
    "figure": figure,
}


def _disc(rng: Rng) -> Outline:
    return Outline.from_rings(_polar(_closed(72), 1.0))


def _polygon(rng: Rng) -> Outline:
    return Outline.from_rings(_polar(_closed(int(rng.integers(3, 6))), 1.0))


def _bar(rng: Rng) -> Outline:
    return Outline.from_rings(_rectangle(-1, -rng.uniform(0.01, 0.05), 1, rng.uniform(0.01, 0.05)))


# Things without a label: discs without holes beside rings, polygons beside stars, bars over all.
DISTRACTORS: tuple[Callable[[Rng], Outline], ...] = (_disc, _polygon, _bar)


def random_outline(make: Callable[[Rng], Outline], rng: Rng) -> Outline:
    """Draw an outline by ``make``; squeeze and turn it at random; scale its longer side to 1.

    Classes with a left and a right stay upright within 35 degrees: else the sides could not be told
    apart.
    """
    upright = make in (figure, crane)
    turn = rng.uniform(-0.6, 0.6) if upright else rng.uniform(-np.pi, np.pi)
    squeeze = np.diag([1.0, 1.0] if upright else [1.0, rng.uniform(0.65, 1.0)])
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ squeeze
    return make(rng).transformed(matrix, np.zeros(2)).normalized()
