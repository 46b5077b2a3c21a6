# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Convolutions with fewer products, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mrcnn_ext.deploy import optimize, winograd
from tests.deploy.test_optimize import assert_same, build, images

SHAPES = [(1, 8, 12, 5, 7), (3, 4, 6, 14, 14), (2, 5, 3, 1, 1), (1, 3, 4, 33, 18), (7, 2, 2, 4, 4)]


@pytest.mark.parametrize("tiles", [1, 5, 128])
@pytest.mark.parametrize(("number", "channels", "out", "height", "width"), SHAPES)
def test_equals_the_direct_sum(number, channels, out, height, width, tiles, monkeypatch):
    monkeypatch.setattr(winograd, "_TILES", tiles)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, channels, height, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(out, channels, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(out, generator=generator, dtype=torch.float64)
    transformed = winograd.transform_weight(weight)
    for b in (bias, None):
        expected = F.conv2d(x, weight, b, padding=1)
        for image in (x, x.to(memory_format=torch.channels_last)):
            found = winograd.convolve(image, transformed, b)
            assert found.shape == expected.shape
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert (found - expected).abs().max() <= 1e-12 * max(1, expected.abs().max())
        assert torch.equal(winograd.convolve(x, transformed, b, relu=True), found.relu())


def test_rounding_in_float32():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 256, 24, 24, generator=generator).relu()
    weight = torch.randn(256, 256, 3, 3, generator=generator) * 0.02
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    found = winograd.convolve(x, winograd.transform_weight(weight), None)
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_when_it_is_used():
    assert winograd.is_worthwhile(256, 256, (1, 256, 200, 336))
    assert winograd.is_worthwhile(256, 256, (100, 256, 14, 14))
    assert not winograd.is_worthwhile(64, 256)
    assert not winograd.is_worthwhile(256, 256, (1, 256, 13, 21))  # few tiles
    assert not winograd.is_worthwhile(256, 256, (100, 256, 5, 5))  # most pixels in vain


@pytest.mark.parametrize("name", ["stock", "MrcnnExtFCNMaskHead", "KRCNNConvDeconvUpsampleHead"])
def test_models_that_use_it_give_the_same_results(name, monkeypatch):
    monkeypatch.setattr(winograd, "_MIN_CHANNELS", 8)
    monkeypatch.setattr(winograd, "_TILES", 4)
    calls = []
    convolve = winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda *a, **k: (calls.append(a[0].shape), convolve(*a, **k))[1]
    )
    model = build(name)
    with torch.no_grad():
        expected = model(images())
    assert_same(expected, optimize(model)(images()))
    assert len(calls) > 4
