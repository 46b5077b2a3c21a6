# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Old names of keys, in the heads that read them."""

from __future__ import annotations

import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY

from mrcnn_ext.errors import ConfigError
from tests.helpers import small_cfg

MAPS = {f"p{level}": ShapeSpec(channels=8, stride=2**level) for level in (2, 3, 4)}
HEADS = [  # head, node below MASK_HEAD, old key, argument
    ("MrcnnExtFCNMaskHead", "", "POOLER_LEVELS", "in_features"),
    ("MrcnnExtBoundaryMaskHead", "BOUNDARY.", "POOLER_LEVELS", "boundary_features"),
    ("MrcnnExtDynamicMaskHead", "DYNAMIC.", "MAP_LEVELS", "map_features"),
    ("MrcnnExtRefineMaskHead", "REFINE_MASK.", "SEMANTIC_FEATURE", "semantic_feature"),
]


def _arguments(head: str, **keys) -> dict:
    cfg = small_cfg()
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""
    for key, value in keys.items():
        cfg.merge_from_list([f"MRCNN_EXT.MASK_HEAD.{key}", value])
    return ROI_MASK_HEAD_REGISTRY.get(head).from_config(cfg, MAPS)


@pytest.mark.parametrize(("head", "node", "old", "argument"), HEADS)
def test_each_head_reads_both_names(head, node, old, argument):
    is_text = old == "SEMANTIC_FEATURE"
    value = "p3" if is_text else ["p3"]
    for keys in (
        {f"{node}IN_FEATURES": ["p3"]},
        {f"{node}{old}": value},
        {f"{node}IN_FEATURES": ["p3"], f"{node}{old}": value},
    ):
        assert _arguments(head, **keys)[argument] == value
    message = rf"{node}IN_FEATURES is \['p3'\], but MRCNN_EXT\.MASK_HEAD\.{node}{old}, its old name"
    other = "p4" if is_text else ["p4"]
    with pytest.raises(ConfigError, match=message):
        _arguments(head, **{f"{node}IN_FEATURES": ["p3"], f"{node}{old}": other})


@pytest.mark.parametrize(("head", "node", "old", "argument"), HEADS[:3])
def test_errors_name_the_key_that_is_set(head, node, old, argument):
    for key in ("IN_FEATURES", old):
        with pytest.raises(ConfigError, match=rf"MASK_HEAD\.{node}{key} names \['p9'\]"):
            _arguments(head, **{f"{node}{key}": ["p9"]})


def test_the_semantic_branch_has_one_map():
    with pytest.raises(ConfigError, match=r"REFINE_MASK\.IN_FEATURES is .*; expected one map"):
        _arguments("MrcnnExtRefineMaskHead", **{"REFINE_MASK.IN_FEATURES": ["p2", "p3"]})
