# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""PointRend: values at points, the choice of points, labels, subdivision, losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.mask_heads import MaskHeadInputs, MrcnnExtPointRendMaskHead
from mrcnn_ext.modeling.mask_heads.point_sampling import (
    generate_regular_grid_point_coords,
    get_point_coords_wrt_image,
    get_uncertain_point_coords_on_grid,
    get_uncertain_point_coords_with_randomness,
    point_sample,
    point_sample_fine_grained_features,
)
from tests.modeling.mask_heads.harness import lazy_head, lazy_pooler

MAPS = {"p2": ShapeSpec(channels=6, stride=4), "p3": ShapeSpec(channels=6, stride=8)}


def _head(**changes) -> MrcnnExtPointRendMaskHead:
    arguments = {
        "input_shape": MAPS,
        "pooler": lazy_pooler(14, 4, sampling_ratio=1),
        "in_features": ["p2"],
        "conv_dim": 8,
        "coarse_fc_dims": [16],
        "point_fc_dims": [16, 16],
    }
    return lazy_head(MrcnnExtPointRendMaskHead, **{**arguments, **changes})


def _inputs(rois: list[int], size: int = 96) -> tuple[dict, MaskHeadInputs]:
    """Maps of noise, and boxes in each image."""
    generator = torch.Generator().manual_seed(0)
    maps = {
        name: torch.randn(
            len(rois), shape.channels, size // shape.stride, size // shape.stride,
            generator=generator,
        )
        for name, shape in MAPS.items()
    }  # fmt: skip
    corner = torch.rand(sum(rois), 2, generator=generator) * size / 2
    sides = torch.rand(sum(rois), 2, generator=generator) * size / 3 + 8
    boxes = torch.cat([corner, corner + sides], dim=1)
    classes = torch.arange(sum(rois)) % 3
    pooled = torch.randn(sum(rois), 6, 14, 14, generator=generator)
    return maps, MaskHeadInputs(pooled, maps, [Boxes(b) for b in boxes.split(rois)], classes)


# ---- Values at points ------------------------------------------------------------------------------


def _bilinear(plane: np.ndarray, x: float, y: float) -> float:
    """At pixel coordinates with pixel centres at .5; the outermost pixels go on beyond."""
    height, width = plane.shape
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
    u, v = x - x0, y - y0
    top = plane[y0, x0] * (1 - u) + plane[y0, x0 + 1] * u
    bottom = plane[y0 + 1, x0] * (1 - u) + plane[y0 + 1, x0 + 1] * u
    return top * (1 - v) + bottom * v


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(2, 7))
def test_point_sample_is_bilinear(seed, height, width):
    rng = np.random.default_rng(seed)
    planes, points = rng.normal(size=(2, 3, height, width)), rng.uniform(-0.1, 1.1, (2, 5, 2))
    got = point_sample(torch.from_numpy(planes), torch.from_numpy(points))
    assert got.shape == (2, 3, 5)
    for r, c, p in np.ndindex(2, 3, 5):
        x, y = points[r, p] * (width, height)
        assert float(got[r, c, p]) == pytest.approx(_bilinear(planes[r, c], x, y), abs=1e-9)


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0, 1], [4]])
def test_fine_grained_features_are_of_the_right_image_and_pixel(counts):
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(len(counts), 2, size, size, generator=generator, dtype=torch.float64)
        for size in (8, 4)
    ]
    for item in maps:
        item.requires_grad_()
    corner = torch.rand(sum(counts), 2, generator=generator, dtype=torch.float64) * 20
    boxes = torch.cat([corner, corner + 10], dim=1)
    points = torch.rand(sum(counts), 4, 2, generator=generator, dtype=torch.float64)
    split = [Boxes(item) for item in boxes.split(counts)]
    for item in split:
        item.tensor = item.tensor.double()
    got = point_sample_fine_grained_features(maps, [1 / 4, 1 / 8], split, points)
    assert got.shape == (sum(counts), 4, 4)
    images = [image for image, count in enumerate(counts) for _ in range(count)]
    for (r, c, p), value in np.ndenumerate(got.detach().numpy()):
        x, y = boxes[r, :2] + points[r, p] * 10
        feature_map, stride = maps[c // 2], (4, 8)[c // 2]
        plane = feature_map[images[r], c % 2].detach().numpy()
        expected = _bilinear(plane, float(x) / stride, float(y) / stride)
        assert value == pytest.approx(expected, abs=1e-5)  # Boxes are float32
    gradient = torch.autograd.grad(got.sum(), maps[0])[0].sum((1, 2, 3))
    assert gradient.tolist() == pytest.approx([8.0 * count for count in counts])


def test_fine_grained_features_without_rois_have_a_gradient():
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    none = [Boxes(torch.zeros(0, 4))] * 2
    got = point_sample_fine_grained_features([maps], [1 / 4], none, torch.zeros(0, 5, 2))
    assert got.shape == (0, 3, 5)
    got.sum().backward()
    assert maps.grad is not None


def test_positions_are_exact_in_half_precision():
    ramp = torch.arange(256.0).expand(1, 1, 4, 256).to(torch.bfloat16)
    points = torch.tensor([[[200.3 / 256, 0.5]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(point_sample(ramp, points)) == pytest.approx(199.8, abs=1e-3)
        grid = generate_regular_grid_point_coords(1, 200, torch.device("cpu"))
    assert grid[0, 5].tolist() == pytest.approx([5.5 / 200, 0.5 / 200], abs=1e-7)


def test_grid_points_are_cell_centres_and_points_in_image_fill_the_box():
    points = generate_regular_grid_point_coords(2, 3, torch.device("cpu"))
    assert points.shape == (2, 9, 2)
    assert points[0, :4].tolist() == [
        pytest.approx(p) for p in ([1 / 6, 1 / 6], [1 / 2, 1 / 6], [5 / 6, 1 / 6], [1 / 6, 1 / 2])
    ]
    boxes = torch.tensor([[10.0, 20, 16, 26], [0, 0, 60, 6]])
    assert get_point_coords_wrt_image(boxes, points)[:, 5].tolist() == [
        pytest.approx(p) for p in ([15, 23], [50, 3])
    ]


# ---- Which points ----------------------------------------------------------------------------------


def test_uncertain_cells_are_those_closest_to_zero():
    logits = torch.tensor([[[3.0, -0.1, 5], [0.2, -9, 4], [7, 8, -0.3]]])
    uncertainty = -logits[:, None].abs()
    cells, points = get_uncertain_point_coords_on_grid(uncertainty, 3)
    assert sorted(cells[0].tolist()) == [1, 3, 8]
    expected = {1: [0.5, 1 / 6], 3: [1 / 6, 0.5], 8: [5 / 6, 5 / 6]}
    for cell, point in zip(cells[0].tolist(), points[0].tolist()):
        assert point == pytest.approx(expected[cell])
    assert get_uncertain_point_coords_on_grid(uncertainty, 100)[0].shape == (1, 9)


def test_training_points_are_drawn_where_the_mask_is_uncertain():
    torch.manual_seed(0)
    # Logits rise from left to right and are 0 in the middle.
    ramp = torch.linspace(-7, 7, 15).expand(4, 1, 15, 15)

    def draw(*arguments):
        return get_uncertain_point_coords_with_randomness(ramp, lambda x: -x.abs(), *arguments)

    points = draw(1000, 4, 0.75)
    assert points.shape == (4, 1000, 2)
    assert ((points >= 0) & (points <= 1)).all()
    away = (points[..., 0] - 0.5).abs()
    # 750 of 4000 candidates: those in the middle 18.75%; the other 250 are anywhere.
    assert (away[:, :750] < 0.11).all()
    assert float(away[:, 750:].mean()) == pytest.approx(0.25, abs=0.02)
    assert float(points[..., 1].mean()) == pytest.approx(0.5, abs=0.02)
    uniform = draw(1000, 1, 0)
    assert float((uniform[..., 0] - 0.5).abs().mean()) == pytest.approx(0.25, abs=0.02)
    all_uncertain = draw(10, 1, 1)
    assert all_uncertain.shape == (4, 10, 2)


# ---- Labels ----------------------------------------------------------------------------------------


def _disc(size: int, centre: float, radius: float):
    angles = np.linspace(0, 2 * math.pi, 200, endpoint=False)
    xy = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    y, x = np.mgrid[:size, :size] + 0.5
    mask = (x - centre) ** 2 + (y - centre) ** 2 <= radius**2
    return PolygonMasks([[xy.ravel()]]), BitMasks(torch.from_numpy(mask)[None])


@pytest.mark.parametrize("kind", ["polygons", "bitmasks"])
def test_labels_are_the_truth_at_the_points(kind):
    size, centre, radius = 400, 200.0, 150.0
    masks = _disc(size, centre, radius)[kind == "bitmasks"]
    instances = [Instances((size, size), gt_masks=masks)]
    boxes = torch.tensor([[20.0, 40.0, 360.0, 300.0]])
    inputs = MaskHeadInputs(torch.zeros(1), {}, [Boxes(boxes)], torch.zeros(1))
    torch.manual_seed(0)
    points = torch.rand(1, 5000, 2)
    labels = _head().point_labels(points, inputs, instances)
    assert labels.shape == (1, 5000)
    away = (get_point_coords_wrt_image(boxes, points)[0] - centre).norm(dim=1) - radius
    # A cell of the 112 x 112 grid is 3 pixels wide here: at that distance there is no doubt.
    assert (labels[0][away < -4.5] > 0.999).all()
    assert (labels[0][away > 4.5] < 0.001).all()
    wrong = ((labels[0] >= 0.5) != (away <= 0)).float().mean()
    assert wrong < 0.006  # within half a cell of the outline


# ---- Subdivision -----------------------------------------------------------------------------------


def _oracle(head, monkeypatch, radius: float):
    """Answers for points with the signed distance to a disc; says how many it was asked for."""
    asked = []

    def answer(points, coarse, inputs):
        asked.append(points.shape[1])
        return (radius - (points - 0.5).norm(dim=2)) * 50

    monkeypatch.setattr(head, "point_logits", answer)
    return asked


@pytest.mark.parametrize("side", [28, 56, 112, 224])
def test_subdivision_with_an_oracle_is_exact(monkeypatch, side):
    head = _head(output_resolution=side).eval()
    asked = _oracle(head, monkeypatch, 0.37)
    _, inputs = _inputs([2, 1])
    masks = head.probabilities([torch.zeros(3, 3, 7, 7)], inputs)
    centres = (torch.arange(side) + 0.5) / side - 0.5
    distance = (centres[:, None] ** 2 + centres[None] ** 2).sqrt()
    assert masks.shape == (3, 1, side, side)
    assert torch.equal(masks[:, 0] >= 0.5, (distance <= 0.37).expand(3, -1, -1))
    assert asked == [784] * int(math.log2(side / 14))


def test_subdivision_asks_for_no_more_than_it_may(monkeypatch):
    head = _head(output_resolution=28, subdivision_points=50).eval()
    asked = _oracle(head, monkeypatch, 0.3)
    _, inputs = _inputs([1])
    coarse = torch.linspace(-1, 1, 3)[None, :, None, None].expand(1, 3, 7, 7)
    head.probabilities([coarse], inputs)
    assert asked == [50, 50]  # the 7 x 7 mask itself is where it starts
    head = _head(output_resolution=7).eval()
    masks = head.probabilities([coarse], inputs)
    assert torch.allclose(masks, torch.full((1, 1, 7, 7), -1.0).sigmoid())


def test_the_point_head_sees_features_coarse_logits_and_class():
    torch.manual_seed(0)
    head = _head(point_features=["p3", "p2"]).double()
    maps, inputs = _inputs([2, 3])
    inputs.maps = {name: value.double() for name, value in maps.items()}
    coarse, points = torch.randn(5, 3, 7, 7).double(), torch.rand(5, 4, 2).double()
    got = head.point_logits(points, coarse, inputs)
    boxes = Boxes.cat(inputs.boxes).tensor.double()
    for roi, image in enumerate([0, 0, 1, 1, 1]):
        place = get_point_coords_wrt_image(boxes[roi : roi + 1], points[roi : roi + 1])[0]
        fine = [
            [_bilinear(plane, *(xy / stride)) for xy in place.numpy()]
            for name, stride in (("p3", 8), ("p2", 4))
            for plane in inputs.maps[name][image].numpy()
        ]
        seen = [
            [_bilinear(plane, *(xy * 7)) for xy in points[roi].numpy()]
            for plane in coarse[roi].numpy()
        ]
        x, seen = torch.tensor(fine).double(), torch.tensor(seen).double()
        for layer in head.point_head.layers:
            x = (layer.weight[..., 0] @ torch.cat([x, seen]) + layer.bias[:, None]).relu()
        layer = head.point_head.predictor
        logits = layer.weight[..., 0] @ torch.cat([x, seen]) + layer.bias[:, None]
        torch.testing.assert_close(got[roi], logits[int(inputs.classes[roi])])


# ---- Losses ----------------------------------------------------------------------------------------


def test_losses_are_of_the_coarse_mask_and_of_points():
    torch.manual_seed(0)
    maps, inputs = _inputs([2, 3])
    instances = []
    for boxes, classes in zip(inputs.boxes, inputs.classes.split([2, 3])):
        masks = BitMasks(_disc(96, 48, 30)[1].tensor.repeat(len(boxes), 1, 1))
        fields = {"proposal_boxes": boxes, "gt_classes": classes, "gt_masks": masks}
        instances.append(Instances((96, 96), **fields))
    for value in maps.values():
        value.requires_grad_()
    for changes in ({}, {"num_classes": 1}, {"losses": ["dice"]}):
        head = _head(**changes)
        losses = head(maps, instances)
        assert set(losses) == {"loss_mask", "loss_mask_point"}
        assert float(losses["loss_mask_point"].detach()) == pytest.approx(math.log(2), abs=0.05)
        sum(losses.values()).backward()
        assert all(p.grad.abs().sum() > 0 for p in head.parameters())
        assert maps["p2"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_resolution": 100}, "OUTPUT_RESOLUTION is 100.*7"),
        ({"output_resolution": 0}, "OUTPUT_RESOLUTION is 0"),
        ({"oversample_ratio": 0.5}, "OVERSAMPLE_RATIO is 0.5"),
        ({"importance_ratio": 1.5}, "IMPORTANCE_RATIO is 1.5"),
        ({"train_points": 0}, "TRAIN_POINTS is 0"),
        ({"subdivision_points": 0}, "SUBDIVISION_POINTS is 0"),
        ({"point_features": ["p9"]}, r"IN_FEATURES names \['p9'\]"),
        ({"pooler": None, "input_shape": ShapeSpec(channels=6)}, "POOLER_TYPE"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        _head(**changes)
