# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Models that optimize() made faster, on a GPU: the same results in float32, near ones in half."""

from __future__ import annotations

import pytest
import torch

from mrcnn_ext.deploy import optimize
from mrcnn_ext.errors import ConfigError
from tests.gpu import needs_gpu
from tests.gpu.test_models import (
    KEYPOINT_HEADS,
    MASK_HEADS,
    _compare,
    _float32_means_float32,  # noqa: F401  (a fixture)
    given_boxes,
    head_cfg,
    make_batch,
    make_models,
)

pytestmark = needs_gpu

# Largest difference of mask probabilities and, in pixels, of keypoints
TOLERANCE = {"float32": (2e-3, 0.1), "bfloat16": (0.15, 8.0), "float16": (0.03, 2.0)}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", [*MASK_HEADS, *KEYPOINT_HEADS])
def test_every_head_says_what_it_said(name, dtype):
    cfg = head_cfg(name)
    batch = make_batch(cfg)
    model = make_models(cfg)[1].eval()
    try:
        faster = optimize(model, dtype=dtype)
    except ConfigError as error:
        pytest.skip(str(error))  # this GPU has no such arithmetic
    results = []
    for each in (model, faster):
        with torch.no_grad():
            results.append(each.inference(batch, given_boxes(batch), do_postprocess=False))
    masks, points = TOLERANCE[dtype]
    for expected, actual in zip(*results):
        _compare(actual.pred_masks.float(), expected.pred_masks, masks)
        assert actual.pred_boxes.tensor.dtype == torch.float32
        if name in KEYPOINT_HEADS:
            assert torch.isfinite(actual.pred_keypoints).all()
            # Of a random heatmap the highest pixel may be anywhere: the median is compared.
            off = (actual.pred_keypoints - expected.pred_keypoints)[..., :2].norm(dim=-1)
            assert off.median() <= points
    whole = faster(batch)[0]["instances"]
    assert whole.pred_masks.shape == (len(whole), 96, 128)
