# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The choice between compiled ops and their fallbacks."""

from __future__ import annotations

import pytest
import torch

from mrcnn_ext.layers.heatmap_peaks.ops import BICUBIC_PEAKS
from mrcnn_ext.layers.kernels import Kernel, has_kernels
from mrcnn_ext.layers.mask_paste.ops import MASKS_TO_RLE, PASTE_MASKS, exact
from mrcnn_ext.layers.mask_targets.ops import BITMASK_TARGETS, POLYGON_MASK_TARGETS
from mrcnn_ext.layers.roi_align.ops import ROI_ALIGN_BACKWARD, ROI_ALIGN_FORWARD

CPU_ONLY = [BICUBIC_PEAKS, BITMASK_TARGETS, MASKS_TO_RLE, PASTE_MASKS, POLYGON_MASK_TARGETS]


@pytest.mark.parametrize("kernel", [*CPU_ONLY, ROI_ALIGN_BACKWARD, ROI_ALIGN_FORWARD])
def test_the_compiled_op_runs_where_its_library_is_loaded(kernel: Kernel):
    for device in ("cpu", "cuda"):
        compiled = has_kernels(f"_C_{device}") and not (device == "cuda" and kernel in CPU_ONLY)
        assert (kernel.on(torch.device(device)) is not kernel.fallback) == compiled
    assert kernel.on(torch.device("meta")) is kernel.fallback


def test_the_compiled_paste_takes_float32_and_a_threshold_only():
    masks, boxes = torch.zeros(1, 2, 2), torch.zeros(1, 4)
    for given in ((masks.double(), boxes, 0.5), (masks, boxes.double(), 0.5), (masks, boxes, -1)):
        assert exact(PASTE_MASKS, *given).func is PASTE_MASKS.fallback
    assert exact(PASTE_MASKS, masks, boxes, 0.5).func is PASTE_MASKS.on(masks.device)
