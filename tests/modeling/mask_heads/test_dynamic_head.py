# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The dynamic mask head: its networks, shared features, sizes, and what it learns."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.mask_heads import MrcnnExtDynamicMaskHead
from mrcnn_ext.modeling.mask_heads.dynamic_head import (
    _positions,
    dynamic_mask_network,
    num_dynamic_parameters,
)
from tests.modeling.mask_heads.harness import head_cfg, lazy_head, lazy_pooler, small_maps

NAME = "MrcnnExtDynamicMaskHead"


def _small_head(**changes):
    arguments = {
        "pooler": lazy_pooler(7, 4, 8),
        "in_features": ["p2", "p3"],
        "resolution": 7,
        "conv_dim": 8,
        "num_conv": 1,
        "map_pooler": lazy_pooler(20, 4),
        "map_features": ["p2", "p3"],
        "map_channels": 8,
        "map_conv_dim": 12,
        "map_num_conv": 1,
    }
    return lazy_head(MrcnnExtDynamicMaskHead, **{**arguments, **changes})


def test_number_of_parameters():
    assert num_dynamic_parameters(8, 8) == 169  # as in the paper
    assert num_dynamic_parameters(4, 3) == (6 * 3 + 3) + (3 * 3 + 3) + (3 + 1)


@pytest.mark.parametrize(("channels", "hidden"), [(8, 8), (4, 3)])
@pytest.mark.parametrize("rois", [0, 1, 5])
def test_networks_against_a_loop_with_conv2d(channels, hidden, rois):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rois, channels + 2, 9, 9, generator=generator, dtype=torch.float64)
    size = num_dynamic_parameters(channels, hidden)
    parameters = torch.randn(rois, size, generator=generator, dtype=torch.float64)
    got = dynamic_mask_network(features, parameters, hidden)
    assert got.shape == (rois, 1, 9, 9)
    for x, numbers, result in zip(features, parameters, got):
        x, position = x[None], 0
        for inner, outer in ((channels + 2, hidden), (hidden, hidden), (hidden, 1)):
            weight = numbers[position : position + inner * outer].view(outer, inner, 1, 1)
            position += inner * outer
            x = F.conv2d(x, weight, numbers[position : position + outer])
            position += outer
            x = x.relu() if outer != 1 else x
        assert position == size
        torch.testing.assert_close(x[0], result)


def test_positions_are_those_of_pixel_centres():
    grid = _positions(torch.zeros(2, 8, 4, 4))
    assert grid.shape == (2, 2, 4, 4)
    assert grid[0, 0, 0].tolist() == grid[0, 1, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert (grid[0, 0] == grid[1, 1].T).all()


def test_shared_features_are_at_the_finest_map_and_ignore_the_boxes():
    torch.manual_seed(0)
    head = _small_head().eval()
    maps = small_maps()
    assert head.shared_features(maps).shape == (2, 8, 16, 16)
    # Two boxes of one image, alone and together: no RoI depends on the others.
    boxes = torch.tensor([[4.0, 4, 40, 50], [20, 8, 60, 44]])
    found = [
        Instances((64, 64), pred_boxes=Boxes(item), pred_classes=torch.arange(len(item)))
        for item in (boxes, boxes[:0])
    ]
    together = head(maps, found)[0].pred_masks
    assert together.shape == (2, 1, 20, 20)
    for index in range(2):
        alone = [found[0][index : index + 1], found[1]]
        torch.testing.assert_close(head(maps, alone)[0].pred_masks, together[index : index + 1])


def test_levels_sizes_and_words_for_wrong_ones():
    cfg = head_cfg(NAME)
    node = cfg.MRCNN_EXT.MASK_HEAD.DYNAMIC
    assert build_model(cfg).roi_heads.mask_head.map_features == ["p2", "p3", "p4", "p5"]
    node.MAP_LEVELS = ["p5", "p3", "p4"]
    node.MASK_RESOLUTION = 24
    head = build_model(cfg).roi_heads.mask_head
    assert head.map_features == ["p3", "p4", "p5"]
    assert head.map_pooler.output_size == (24, 24)
    assert head.map_pooler.level_poolers[0].spatial_scale == 1 / 8
    node.MAP_LEVELS = ["p6"]
    with pytest.raises(ConfigError, match=r"DYNAMIC.MAP_LEVELS names \['p6'\]"):
        build_model(cfg)
