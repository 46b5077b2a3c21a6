# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Objects that have a box and no mask: every mask head learns from the others alone."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from mrcnn_ext.errors import DataError
from mrcnn_ext.modeling.keypoint_heads.mask_guide import _ground_truth
from mrcnn_ext.structures import mask_targets, pack_gt_masks
from tests.helpers import random_inputs, train_step
from tests.modeling.mask_heads.harness import HEADS, ground_truth, head_and_maps, head_cfg

each_head = pytest.mark.parametrize("name", HEADS)


def _without_masks(instances: list[Instances], has_mask: list[list[bool]]) -> list[Instances]:
    """The same, with empty masks where ``has_mask`` is False."""
    result = []
    for x, flags in zip(instances, has_mask):
        flag = torch.tensor(flags)
        fields = dict(x.get_fields())
        if isinstance(x.gt_masks, PolygonMasks):
            fields["gt_masks"] = PolygonMasks(
                [polygons if f else [] for polygons, f in zip(x.gt_masks.polygons, flags)]
            )
        else:
            fields["gt_masks"] = BitMasks(x.gt_masks.tensor & flag[:, None, None])
        result.append(Instances(x.image_size, **fields, gt_has_mask=flag))
    return result


def _losses(head, maps, instances) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with EventStorage():
        return head.train()(maps, instances)


@each_head
@pytest.mark.parametrize("polygons", [False, True], ids=["bitmasks", "polygons"])
def test_losses_are_those_of_the_objects_with_masks(name, polygons):
    head, maps = head_and_maps(name, "MRCNN_EXT.MASK_HEAD.SCORE", "mask_iou")
    instances = ground_truth(polygons)
    flags = [[True, False], [True]]
    losses = _losses(head, maps, _without_masks(instances, flags))
    alone = _losses(head, maps, [x[torch.tensor(f)] for x, f in zip(instances, flags)])
    assert losses.keys() == alone.keys()
    for key, value in alone.items():
        assert value.item() > 0, key
        torch.testing.assert_close(losses[key], value, msg=key)


@each_head
def test_no_mask_at_all_is_a_zero_with_gradients(name):
    head, maps = head_and_maps(name, "MRCNN_EXT.MASK_HEAD.SCORE", "mask_iou")
    losses = _losses(head, maps, _without_masks(ground_truth(), [[False, False], [False]]))
    assert all(float(loss) == 0 for loss in losses.values())
    sum(losses.values()).backward()
    trainable = {k: p for k, p in head.named_parameters() if p.requires_grad}
    assert not [key for key, p in trainable.items() if p.grad is None]


@pytest.mark.parametrize("roi_heads", ["MrcnnExtStandardROIHeads", "StandardROIHeads"])
def test_whole_model_learns_from_what_is_there(roi_heads):
    cfg = head_cfg("MrcnnExtFCNMaskHead", roi_heads)
    torch.manual_seed(0)
    model = build_model(cfg)
    batch = random_inputs(cfg)
    seen = []
    model.roi_heads.mask_head.register_forward_hook(
        lambda module, inputs, outputs: seen.append(sum(len(x) for x in inputs[1]))
    )
    for flag in (True, False):
        for inputs in batch:
            inputs["instances"].gt_has_mask = torch.full_like(
                inputs["instances"].gt_classes, flag, dtype=torch.bool
            )
        losses = train_step(model, batch)
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert (float(losses["loss_mask"]) > 0) == flag
        assert float(losses["loss_cls"]) > 0
    assert min(seen) > 0


def test_stock_head_is_refused_by_name():
    cfg = head_cfg("MaskRCNNConvUpsampleHead")
    model = build_model(cfg)
    batch = random_inputs(cfg)
    for inputs in batch:
        inputs["instances"].gt_has_mask = torch.ones_like(
            inputs["instances"].gt_classes, dtype=torch.bool
        )
    train_step(model, batch)  # every object has a mask
    batch[0]["instances"].gt_has_mask[0] = False
    with pytest.raises(
        DataError, match=r"MaskRCNNConvUpsampleHead cannot learn.*MrcnnExtFCNMaskHead"
    ):
        train_step(model, batch)


@pytest.mark.parametrize("polygons", [False, True], ids=["bitmasks", "polygons"])
def test_mask_guide_is_neutral_where_there_is_no_mask(polygons):
    instances = _without_masks(ground_truth(polygons), [[True, False], [False]])
    guide = _ground_truth(instances, (14, 14))
    whole = mask_targets(ground_truth(polygons), 14)
    assert torch.equal(guide[0, 0], whole[0].float())
    assert (guide[1:] == 0.5).all()


def test_empty_polygons_stay_empty_in_packed_structures():
    (x, _) = _without_masks(ground_truth(polygons=True), [[True, False], [True]])
    packed = pack_gt_masks(x)
    assert packed.gt_masks.nonempty().tolist() == [True, False]
    assert packed[1:].gt_masks.nonempty().tolist() == [False]
    assert not mask_targets([packed[1:]], 14).any()
