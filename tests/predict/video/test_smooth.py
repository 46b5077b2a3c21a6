# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The One Euro filter against the paper's formulas, and what it does to keypoints."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mrcnn_ext.predict.video.smooth import KeypointSmoother, OneEuroFilter


class _LowPass:
    """The paper's first algorithm, one number at a time."""

    def __init__(self):
        self.first, self.last = True, 0.0

    def filter(self, value, alpha):
        if self.first:
            self.first, self.last = False, value
        self.last = alpha * value + (1 - alpha) * self.last
        return self.last


class _Reference:
    """The paper's second algorithm."""

    def __init__(self, min_cutoff, beta, derivative_cutoff):
        self.settings = min_cutoff, beta, derivative_cutoff
        self.first, self.x, self.dx = True, _LowPass(), _LowPass()

    def filter(self, x, rate):
        min_cutoff, beta, derivative_cutoff = self.settings
        dx = 0.0 if self.first else (x - self.x.last) * rate
        self.first = False
        edx = self.dx.filter(dx, self.alpha(rate, derivative_cutoff))
        return self.x.filter(x, self.alpha(rate, min_cutoff + beta * abs(edx)))

    @staticmethod
    def alpha(rate, cutoff):
        tau, te = 1.0 / (2 * math.pi * cutoff), 1.0 / rate
        return 1.0 / (1.0 + tau / te)


@pytest.mark.parametrize(("min_cutoff", "beta", "cutoff"), [(1.0, 0.0, 1.0), (0.3, 0.7, 2.0)])
def test_equals_the_papers_formulas(min_cutoff, beta, cutoff):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.005, 0.2, 200))
    values = np.cumsum(rng.normal(0, 1, (200, 3, 2)), axis=0)
    smooth = OneEuroFilter(min_cutoff, beta, cutoff)
    got = np.array([smooth(value, time).copy() for value, time in zip(values, times)])
    for place in np.ndindex(3, 2):
        reference = _Reference(min_cutoff, beta, cutoff)
        rates = [25.0, *(1 / np.diff(times))]
        expected = [reference.filter(float(v[place]), float(r)) for v, r in zip(values, rates)]
        np.testing.assert_allclose(got[(slice(None), *place)], expected, rtol=1e-12, atol=1e-12)


def test_keypoints_at_rest_tremble_less_and_those_that_move_do_not_lag():
    rng = np.random.default_rng(1)
    times = np.arange(100) / 25
    noise = rng.normal(0, 1.5, (100, 17, 2))
    for scale in (1, 4):  # whatever the size of an object is
        smoother = KeypointSmoother()
        rest = [smoother(1, p, 100 * scale, t) for p, t in zip(50 + scale * noise, times)]
        tremble = np.diff(rest, axis=0)[10:].std() / scale
        assert tremble < 0.35 * np.diff(noise, axis=0)[10:].std()
        smoother = KeypointSmoother()
        path = 100 * scale * times[:, None, None] + np.zeros((17, 2))  # a side a second
        moved = [smoother(1, p, 100 * scale, t) for p, t in zip(path, times)]
        assert np.abs(moved - path)[25:].max() < 0.04 * 100 * scale


def test_objects_are_apart_and_forgotten():
    smoother = KeypointSmoother()
    points = np.zeros((2, 2))
    smoother(1, points, 10, 0.0)
    assert np.array_equal(smoother(2, points + 8, 10, 0.1), points + 8)
    assert (smoother(1, points + 8, 10, 0.1) < 8).all()
    smoother.forget(0.5)
    assert (smoother(1, points + 9, 10, 0.5) < 9).all()
    smoother.forget(1.6)
    assert np.array_equal(smoother(1, points + 9, 10, 1.6), points + 9)
