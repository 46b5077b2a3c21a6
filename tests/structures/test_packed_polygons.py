# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""PackedPolygonMasks and IndexedBitMasks in the place of Detectron2's structures."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from mrcnn_ext.structures import IndexedBitMasks, PackedPolygonMasks, mask_targets, pack_gt_masks
from tests.helpers import random_inputs, timm_cfg, train_step

BOXES = torch.tensor([[0.0, 0, 20, 20], [5, 5, 30, 30], [-4, 2, 9, 40], [1, 1, 2, 2]])


def polygons(count: int = 4) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(count)
    return [
        [rng.uniform(0, 30, 2 * int(rng.integers(3, 9))) for _ in range(number % 3)]
        for number in range(1, count + 1)
    ]


def masks() -> torch.Tensor:
    return torch.rand(4, 35, 45, generator=torch.Generator().manual_seed(0)) < 0.5


PAIRS = {
    "polygons": (lambda: PackedPolygonMasks(polygons()), lambda: PolygonMasks(polygons())),
    "bitmasks": (lambda: IndexedBitMasks(masks()), lambda: BitMasks(masks())),
}


@pytest.fixture(params=PAIRS)
def pair(request):
    packed, stock = PAIRS[request.param]
    return packed(), stock()


def assert_same(packed, stock) -> None:
    assert isinstance(packed, type(stock))
    assert type(packed) is not type(stock)
    assert len(packed) == len(stock)
    assert packed.device == stock.device
    assert repr(packed) == repr(stock).replace(type(stock).__name__, type(packed).__name__)
    assert torch.equal(packed.nonempty(), stock.nonempty())
    torch.testing.assert_close(
        packed.get_bounding_boxes().tensor, stock.get_bounding_boxes().tensor, rtol=0, atol=0
    )
    boxes = BOXES.repeat(3, 1)[: len(stock)]
    assert torch.equal(packed.crop_and_resize(boxes, 14), stock.crop_and_resize(boxes, 14))
    if isinstance(stock, BitMasks):
        assert torch.equal(packed.tensor, stock.tensor)
        assert packed.image_size == stock.image_size
        assert all(torch.equal(a, b) for a, b in zip(packed, stock))
        return
    assert torch.equal(packed.area(), stock.area())
    for ours, theirs in ((packed.polygons, stock.polygons), (list(packed), list(stock))):
        assert [len(item) for item in ours] == [len(item) for item in theirs]
        for a, b in zip(ours, theirs):
            for x, y in zip(a, b):
                np.testing.assert_array_equal(x, y)
                assert x.dtype == np.float64


ITEMS = {
    "int": 1,
    "negative": -1,
    "slice": slice(1, 3),
    "list": [3, 0, 0],
    "bool": torch.tensor([True, False, True, True]),
    "none": torch.zeros(4, dtype=torch.bool),
    "int64": torch.tensor([2, 2, 1, 3, 0, -1]),
    "int32": torch.tensor([2, 2, 1], dtype=torch.int32),
    "empty": torch.zeros(0, dtype=torch.int64),
}


@pytest.mark.parametrize("name", ITEMS)
def test_indexing(pair, name):
    packed, stock = pair
    item = ITEMS[name]
    assert_same(packed, stock)
    assert_same(packed[item], stock[item])
    again = torch.arange(len(stock[item])).flip(0)
    assert_same(packed[item][again], stock[item][again])


def test_indices_that_are_wrong(pair):
    packed, _ = pair
    for item in (4, torch.tensor([4]), torch.ones(5, dtype=torch.bool), [4]):
        with pytest.raises(IndexError):
            packed[item]
    with pytest.raises(ValueError, match="Unsupported tensor dtype"):
        packed[torch.tensor([1.0])]
    with pytest.raises(ValueError, match="one dimension"):
        packed[torch.tensor([[1]])]


def test_cat_copy_and_pickle(pair):
    packed, stock = pair
    cls = type(stock)
    item = torch.tensor([3, 1, 1])
    assert_same(type(packed).cat([packed, packed[item]]), cls.cat([stock, stock[item]]))
    assert_same(type(packed).cat([stock, packed[item]]), cls.cat([stock, stock[item]]))
    mixed = cls.cat([stock, packed])
    assert type(mixed) is cls
    assert len(mixed) == 8
    assert_same(copy.deepcopy(packed[item]), stock[item])
    assert_same(pickle.loads(pickle.dumps(packed[item])), stock[item])
    assert_same(packed[item].to("cpu"), stock[item])


def test_instances_of_other_images_come_together():
    first, second = PackedPolygonMasks(polygons(4)), PackedPolygonMasks(polygons(5))
    stock = PolygonMasks.cat([PolygonMasks(polygons(5)), PolygonMasks(polygons(4))])
    assert_same(PackedPolygonMasks.cat([second, first]), stock)


def test_bitmasks_from_packed_polygons():
    packed, stock = (kind(polygons()) for kind in (PackedPolygonMasks, PolygonMasks))
    expected = BitMasks.from_polygon_masks(stock, 40, 40)
    assert torch.equal(BitMasks.from_polygon_masks(packed, 40, 40).tensor, expected.tensor)


def test_indexing_shares_what_it_indexes():
    packed = PackedPolygonMasks(polygons())
    chosen = packed[torch.randint(0, 4, (1000,))]
    assert chosen._store is packed._store
    full = IndexedBitMasks(masks())
    assert full[torch.randint(0, 4, (1000,))]._store.data_ptr() == full._store.data_ptr()


def test_the_constructor_says_what_detectron2_says():
    for wrong in (np.zeros(6), [np.zeros(6)], [[np.zeros(4)]]):
        with pytest.raises(ValueError) as theirs:
            PolygonMasks(wrong)
        with pytest.raises(ValueError) as ours:
            PackedPolygonMasks(wrong)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(ValueError, match="the coordinate nan"):
        PackedPolygonMasks([[np.full(6, np.nan)]])
    assert len(PackedPolygonMasks([])) == 0
    assert len(PackedPolygonMasks([[torch.zeros(6)]])) == 1


def instances(gt_masks, boxes=BOXES) -> Instances:
    return Instances((50, 50), gt_masks=gt_masks, proposal_boxes=Boxes(boxes))


def test_pack_gt_masks_leaves_its_argument_and_what_it_does_not_know():
    before = instances(PolygonMasks(polygons()))
    after = pack_gt_masks(before)
    assert type(before.gt_masks) is PolygonMasks
    assert type(after.gt_masks) is PackedPolygonMasks
    assert after.proposal_boxes is before.proposal_boxes
    assert pack_gt_masks(after) is after
    assert type(pack_gt_masks([instances(BitMasks(masks()))])[0].gt_masks) is IndexedBitMasks

    class Own(PolygonMasks):
        pass

    for other in (instances(Own(polygons())), instances(torch.zeros(4)), Instances((5, 5))):
        assert pack_gt_masks(other) is other


@pytest.mark.parametrize("kinds", ["pp", "bb", "pb"])
def test_mask_targets_of_a_batch(kinds):
    made = {"p": lambda: PolygonMasks(polygons()), "b": lambda: BitMasks(masks())}
    batch = [instances(made[kind](), BOXES + shift) for shift, kind in enumerate(kinds)]
    nothing = Instances((50, 50), proposal_boxes=Boxes(torch.zeros(0, 4)))
    expected = torch.cat(
        [item.gt_masks.crop_and_resize(item.proposal_boxes.tensor, 14) for item in batch]
    )
    assert torch.equal(mask_targets([batch[0], nothing, batch[1]], 14), expected)
    assert mask_targets([nothing], (7, 14)).shape == (0, 7, 14)
    for item in batch:
        item.own_boxes = item.proposal_boxes.tensor
    assert torch.equal(mask_targets(batch, 14, boxes_field="own_boxes"), expected)
    assert mask_targets(batch, (7, 14)).shape == (8, 7, 14)


def test_mask_targets_of_no_image():
    with pytest.raises(ValueError, match="at least one image"):
        mask_targets([], 14)


@pytest.mark.parametrize("kind", ["Standard", "Cascade", "Res5"])
@pytest.mark.parametrize("format", ["polygon", "bitmask"])
def test_a_training_step_gives_the_losses_of_detectron2(kind, format, monkeypatch):
    cfg = timm_cfg("resnet18", fpn=kind != "Res5")
    cfg.MODEL.ROI_HEADS.NAME = f"MrcnnExt{kind}ROIHeads"
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = kind == "Cascade"
    if kind == "Res5":
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    batch = random_inputs(cfg)
    if format == "polygon":
        for item in batch:
            outlines = [
                [np.array([x0, y0, x1, y0 + 3, x1 - 4, y1, x0, y1])]
                for x0, y0, x1, y1 in item["instances"].gt_boxes.tensor.tolist()
            ]
            item["instances"].gt_masks = PolygonMasks(outlines)
    torch.manual_seed(0)
    model = build_model(cfg)

    called = []
    fused = PackedPolygonMasks if format == "polygon" else IndexedBitMasks
    crop = fused.crop_and_resize
    monkeypatch.setattr(
        fused, "crop_and_resize", lambda self, *a: called.append(1) or crop(self, *a)
    )
    torch.manual_seed(1)
    losses = train_step(model, batch)
    assert len(called) == len(batch)

    name = "res5_heads" if kind == "Res5" else "standard_heads"
    monkeypatch.setattr(
        f"mrcnn_ext.modeling.roi_heads.{name}.pack_gt_masks", lambda instances: instances
    )
    torch.manual_seed(1)
    reference = train_step(model, batch)
    assert len(called) == len(batch)
    assert losses["loss_mask"] == reference["loss_mask"]
    assert losses.keys() == reference.keys()
