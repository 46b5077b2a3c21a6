# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Keypoint codecs: round trips, flips, borders, and values against independent references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from detectron2.config import get_cfg
from detectron2.modeling.roi_heads.keypoint_head import keypoint_rcnn_loss
from detectron2.structures import Boxes, Instances, Keypoints, heatmaps_to_keypoints
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch.nn import functional as F

from mrcnn_ext import add_mrcnn_ext_config
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling import keypoint_codecs
from mrcnn_ext.modeling.keypoint_codecs import (
    KEYPOINT_CODEC_REGISTRY,
    GaussianCodec,
    IntegralCodec,
    OneHotCodec,
    RealNVP,
    ResidualLikelihoodCodec,
    SimCCCodec,
    UDPCodec,
    build_keypoint_codec,
    codec_names,
    fast_heatmaps_to_keypoints,
    image_to_map,
    map_to_image,
    peak_2d,
)

SIZE = 56  # of maps
BINS = (224, 224)
BOX = torch.tensor([[30.0, 20.0, 230.0, 420.0]])  # 200 x 400


def _codecs():
    return [
        OneHotCodec(),
        GaussianCodec(),
        UDPCodec(),
        IntegralCodec(),
        SimCCCodec(),
        ResidualLikelihoodCodec(),
    ]


NAMES = ["one_hot", "gaussian", "udp", "integral", "simcc", "residual_likelihood"]
each_codec = pytest.mark.parametrize("codec", _codecs(), ids=NAMES)


def _case(regions, number=3, seed=0, outside=0.2):
    """Boxes and keypoints, some outside, some unlabelled, some occluded."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(regions, 2, generator=generator) * 100 - 20
    sides = torch.exp(torch.rand(regions, 2, generator=generator) * 4 + 1.5)
    boxes = torch.cat([corner, corner + sides], dim=1)
    place = torch.rand(regions, number, 2, generator=generator) * (1 + 2 * outside) - outside
    points = boxes[:, None, :2] + place * sides[:, None]
    visibility = torch.randint(0, 3, (regions, number, 1), generator=generator).float()
    return boxes, torch.cat([points, visibility], dim=2)


def _random_predictions(codec, regions, number, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        values = torch.randn(regions, number, *shape, generator=generator)
        return values.to(dtype).requires_grad_()

    if isinstance(codec, SimCCCodec):
        return draw(32), draw(48)
    if isinstance(codec, ResidualLikelihoodCodec):
        return draw(4)
    return draw(14, 14)


def _leaves(predictions):
    return predictions if isinstance(predictions, tuple) else (predictions,)


def _size(codec, size=SIZE, bins=BINS):
    """Of what a head would predict for the codec."""
    return bins if isinstance(codec, SimCCCodec) else (size, size)


def _perfect(codec, boxes, keypoints):
    """Predictions that say just what was encoded."""
    if isinstance(codec, OneHotCodec):
        labels, _ = codec.encode(boxes, keypoints, (SIZE, SIZE))
        return F.one_hot(labels, SIZE * SIZE).float().unflatten(2, (SIZE, SIZE)) * 20
    if isinstance(codec, IntegralCodec):
        # Any map with that mean will do: the four cells around the point.
        positions, _ = codec.encode(boxes, keypoints, (SIZE, SIZE))
        cells = torch.arange(SIZE)
        x, y = ((1 - (p[..., None] - cells).abs()).clamp(min=0) for p in positions.unbind(2))
        return (y[..., None] * x[..., None, :]).clamp(min=1e-12).log()
    if isinstance(codec, GaussianCodec):
        return codec.encode(boxes, keypoints, (SIZE, SIZE))[0].clamp(min=1e-30).log()
    if isinstance(codec, SimCCCodec):
        (x, y), _ = codec.encode(boxes, keypoints, BINS)
        return x.clamp(min=1e-30).log(), y.clamp(min=1e-30).log()
    positions, _ = codec.encode(boxes, keypoints, (1, 1))
    return torch.cat([positions, torch.full_like(positions, -3)], dim=2)


# ---- Round trips --------------------------------------------------------------------------------


@each_codec
@settings(max_examples=60, deadline=None)
@given(place=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_perfect_prediction_decodes_to_where_the_point_is(codec, place):
    point = BOX[:, :2] + torch.tensor([place]) * (BOX[:, 2:] - BOX[:, :2])
    keypoints = torch.cat([point, torch.tensor([[2.0]])], dim=1)[None]
    decoded = codec.decode(_perfect(codec, BOX, keypoints), BOX)
    error = (decoded[0, 0, :2] - point[0]).abs()
    # Half a cell and half a pixel is what a label of one cell and a grid of pixels can do, but at the
    # border, where bicubic resizing overshoots.
    border = any(not 0.02 < x < 0.98 for x in place)
    limit = torch.tensor([200.0, 400.0]) / SIZE / (1 if border else 2) + 0.51
    assert (error <= (limit if isinstance(codec, OneHotCodec) else 0.05)).all(), error


@each_codec
def test_round_trip_of_boxes_of_many_sizes(codec):
    # Bicubic resizing, which Detectron2 decodes with, overshoots at the map's border.
    boxes, keypoints = _case(100, outside=-0.02 if isinstance(codec, OneHotCodec) else -0.001)
    decoded = codec.decode(_perfect(codec, boxes, keypoints), boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    error = (decoded - keypoints)[..., :2].abs()
    if isinstance(codec, OneHotCodec):
        # In boxes with fewer pixels than cells, Detectron2's resizing may miss the one cell.
        large = (sides > SIZE).all(dim=1)
        limit = sides[:, None] / SIZE / 2 + 0.51
        assert (error <= limit)[large[:, None] & (keypoints[..., 2] > 0)].all()
    else:
        assert (error / sides[:, None])[keypoints[..., 2] > 0].max() < 0.05 / 200
    assert decoded.shape == (100, 3, 3)
    score = decoded[..., 2][keypoints[..., 2] > 0]
    assert ((score >= 0) & (score <= 1.001)).all()


@settings(max_examples=100, deadline=None)
@given(
    x=st.floats(-500, 500),
    y=st.floats(-500, 500),
    corner=st.tuples(st.floats(-100, 900), st.floats(-100, 900)),
    side=st.tuples(st.floats(0.5, 900), st.floats(0.5, 900)),
    frame=st.sampled_from(["half_pixel", "unit_length"]),
)
def test_coordinates_come_back_and_mirror(x, y, corner, side, frame):
    box = torch.tensor([[*corner, corner[0] + side[0], corner[1] + side[1]]], dtype=torch.float64)
    points = torch.tensor([[[x, y]]], dtype=torch.float64)
    positions = image_to_map(points, box, (56, 40), frame)
    torch.testing.assert_close(map_to_image(positions, box, (56, 40), frame), points)
    mirrored_box = torch.stack([1000 - box[:, 2], box[:, 1], 1000 - box[:, 0], box[:, 3]], dim=1)
    mirrored = torch.stack([1000 - points[..., 0], points[..., 1]], dim=2)
    expected = torch.stack([55 - positions[..., 0], positions[..., 1]], dim=2)
    actual = image_to_map(mirrored, mirrored_box, (56, 40), frame)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_where_the_frames_put_the_edges_of_a_box():
    corners = torch.stack([BOX[:, :2], BOX[:, 2:]], dim=1)
    half = image_to_map(corners, BOX, (56, 56), "half_pixel")
    assert half[0].tolist() == [[-0.5, -0.5], [55.5, 55.5]]
    unit = image_to_map(corners, BOX, (56, 56), "unit_length")
    assert unit[0].tolist() == [[0, 0], [55, 55]]


# ---- Flips, borders, visibility -----------------------------------------------------------------


def _flip(boxes, keypoints, width=1024.0):
    boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
    x, rest = keypoints[..., :1], keypoints[..., 1:]
    return boxes, torch.cat([width - x, rest], dim=2)


@each_codec
def test_the_code_of_a_flipped_image_is_the_flipped_code(codec):
    boxes, keypoints = _case(50)
    # Eighths, so that the flip is exact and a point on a cell's border is on it in both.
    boxes, keypoints = (boxes * 8).round() / 8, (keypoints * 8).round() / 8
    size = _size(codec)
    straight, valid = codec.encode(boxes, keypoints, size)
    flipped, valid_flipped = codec.encode(*_flip(boxes, keypoints), size)
    assert torch.equal(valid, valid_flipped)
    if isinstance(codec, SimCCCodec):
        torch.testing.assert_close(straight[1], flipped[1])
        straight, flipped = straight[0], flipped[0]
    assert valid.any()
    assert not valid.all()
    first, second = straight[valid], flipped[valid]
    if isinstance(codec, OneHotCodec):
        # floor() puts a point on the border between cells to the right of it, in either image.
        position = image_to_map(keypoints[..., :2], boxes, (SIZE, SIZE))[valid][:, 0] + 0.5
        inner = (position - position.round()).abs() > 1e-3
        assert inner.sum() > 10
        mirrored = first // SIZE * SIZE + SIZE - 1 - first % SIZE
        assert torch.equal(mirrored[inner], second[inner])
    elif isinstance(codec, ResidualLikelihoodCodec):
        torch.testing.assert_close(first * torch.tensor([-1.0, 1.0]), second)
    elif isinstance(codec, IntegralCodec):
        mirrored = torch.stack([SIZE - 1 - first[:, 0], first[:, 1]], dim=1)
        torch.testing.assert_close(mirrored, second, atol=1e-4, rtol=1e-4)
    else:
        torch.testing.assert_close(first.flip(-1), second, atol=1e-5, rtol=1e-3)


@each_codec
def test_decoding_flipped_predictions_gives_flipped_keypoints(codec):
    if isinstance(codec, OneHotCodec):
        pytest.skip("Detectron2's argmax takes the first of two equal pixels")
    boxes, keypoints = _case(20, outside=-0.1)
    flipped_boxes, flipped = _flip(boxes, keypoints)
    decoded = codec.decode(_perfect(codec, flipped_boxes, flipped), flipped_boxes)
    back = _flip(flipped_boxes, decoded)[1]
    expected = codec.decode(_perfect(codec, boxes, keypoints), boxes)
    labelled = keypoints[..., 2] > 0
    torch.testing.assert_close(back[labelled], expected[labelled], atol=2e-2, rtol=1e-3)


@each_codec
def test_which_points_count(codec):
    boxes = BOX.repeat(7, 1)
    points = torch.tensor(
        [
            [100.0, 100.0, 2],  # inside
            [100.0, 100.0, 1],  # hidden
            [100.0, 100.0, 0],  # unlabelled
            [230.0, 420.0, 2],  # the corner
            [30.0, 20.0, 2],  # the other corner
            [240.0, 100.0, 2],  # a little outside
            [700.0, 100.0, 2],  # far outside
        ]
    )[:, None]
    valid = codec.encode(boxes, points, _size(codec))[1][:, 0].tolist()
    outside = isinstance(codec, ResidualLikelihoodCodec)
    assert valid == [True, True, False, True, True, outside, False]


@each_codec
def test_what_does_not_count_has_no_influence(codec):
    boxes, keypoints = _case(8)
    size = _size(codec, 14, (32, 48))
    _, valid = codec.encode(boxes, keypoints, size)
    predictions = _random_predictions(codec, 8, 3)
    loss = codec.loss(predictions, boxes, keypoints)
    loss.backward()
    for leaf in _leaves(predictions):
        used = leaf.grad.flatten(2).abs().sum(2) > 0
        assert torch.equal(used, valid)
    moved = keypoints.clone()
    moved[~valid] = torch.tensor([math.inf, -1e30, 0.0])
    assert torch.equal(codec.loss(predictions, boxes, moved), loss)


@each_codec
def test_nothing_to_learn_from_and_no_regions(codec):
    for regions in (0, 4):
        boxes, keypoints = _case(regions)
        keypoints[..., 2] = 0
        predictions = _random_predictions(codec, regions, 3)
        loss = codec.loss(predictions, boxes, keypoints)
        assert loss.shape == ()
        assert loss == 0
        loss.backward()
        assert all(leaf.grad is not None for leaf in _leaves(predictions))
        assert all((leaf.grad == 0).all() for leaf in _leaves(predictions))
        assert codec.decode(predictions, boxes).shape == (regions, 3, 3)


@each_codec
def test_normalizers(codec):
    boxes, keypoints = _case(8)
    predictions = _random_predictions(codec, 8, 3)
    total = codec.loss(predictions, boxes, keypoints, 1.0)
    torch.testing.assert_close(codec.loss(predictions, boxes, keypoints, 4.0), total / 4)
    size = _size(codec, 14, (32, 48))
    count = codec.encode(boxes, keypoints, size)[1].sum()
    torch.testing.assert_close(codec.loss(predictions, boxes, keypoints), total / count)


@each_codec
def test_half_precision_predictions_give_float32_results(codec):
    boxes, keypoints = _case(4)
    predictions = _random_predictions(codec, 4, 3, dtype=torch.bfloat16)
    exact = [leaf.detach().float() for leaf in _leaves(predictions)]
    exact = tuple(exact) if isinstance(predictions, tuple) else exact[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = codec.loss(predictions, boxes, keypoints)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, codec.loss(exact, boxes, keypoints), rtol=2e-2, atol=1e-3)
    assert codec.decode(predictions, boxes).dtype == torch.float32


@each_codec
def test_gradients_against_finite_differences(codec):
    boxes, keypoints = _case(2, number=2, seed=3)
    predictions = _random_predictions(codec, 2, 2)
    loss = codec.loss(predictions, boxes, keypoints)
    gradients = torch.autograd.grad(loss, _leaves(predictions))
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(leaf.shape, generator=generator) for leaf in _leaves(predictions)]

    def at(size):
        moved = [leaf.detach() + size * step for leaf, step in zip(_leaves(predictions), steps)]
        moved = tuple(moved) if isinstance(predictions, tuple) else moved[0]
        return float(codec.loss(moved, boxes, keypoints).detach())

    expected = (at(1e-2) - at(-1e-2)) / 2e-2
    actual = sum(float((g * step).sum()) for g, step in zip(gradients, steps))
    assert actual == pytest.approx(expected, rel=2e-2, abs=2e-3)


def test_a_box_without_area_gives_finite_numbers():
    boxes = torch.tensor([[10.0, 10, 10, 10], [5.0, 5, 5, 50]])
    keypoints = torch.tensor([[[10.0, 10, 2]], [[5.0, 20, 2]]])
    for codec in _codecs():
        predictions = _random_predictions(codec, 2, 1)
        assert torch.isfinite(codec.loss(predictions, boxes, keypoints)), codec
        assert torch.isfinite(codec.decode(predictions, boxes)).all(), codec


# ---- One-hot: Detectron2's ----------------------------------------------------------------------


def _instances(boxes, keypoints, split):
    result = []
    for part in (slice(0, split), slice(split, None)):
        x = Instances((500, 500), proposal_boxes=Boxes(boxes[part]))
        x.gt_keypoints = Keypoints(keypoints[part])
        result.append(x)
    return result


@pytest.mark.parametrize("normalizer", [None, 512.0])
@pytest.mark.parametrize("seed", range(5))
def test_one_hot_loss_is_detectron2s(seed, normalizer):
    boxes, keypoints = _case(20, number=5, seed=seed)
    logits = torch.randn(20, 5, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = OneHotCodec().loss(mine, boxes, keypoints, normalizer)
    expected = keypoint_rcnn_loss(theirs, _instances(boxes, keypoints, 12), normalizer)
    assert torch.equal(loss, expected)
    loss.backward()
    expected.backward()
    assert torch.equal(mine.grad, theirs.grad)


def test_traced_one_hot_decoding_is_detectron2s_own():
    maps, boxes = torch.randn(2, 3, 14, 14), torch.tensor([[0.0, 0, 30, 40], [5, 5, 17, 60]])
    traced = torch.jit.trace(fast_heatmaps_to_keypoints, (maps, boxes), check_trace=False)
    other = torch.randn(2, 3, 14, 14)
    torch.testing.assert_close(traced(other, boxes), heatmaps_to_keypoints(other, boxes))


# ---- Gaussian, integral, SimCC, residual likelihood: by their formulas --------------------------


@pytest.mark.parametrize("frame", ["half_pixel", "unit_length"])
def test_gaussian_target_and_loss_by_the_formula(frame):
    codec = GaussianCodec(sigma=1.5, frame=frame)
    boxes, keypoints = _case(4)
    target, valid = codec.encode(boxes, keypoints, (14, 14))
    logits = torch.randn(4, 3, 14, 14, dtype=torch.float64)
    position = image_to_map(keypoints[..., :2].double(), boxes.double(), (14, 14), frame).numpy()
    total = 0.0
    grid = np.arange(14)
    for r, k in valid.nonzero().tolist():
        squares = (grid[None] - position[r, k, 0]) ** 2 + (grid[:, None] - position[r, k, 1]) ** 2
        expected = np.exp(-squares / (2 * 1.5**2))
        expected /= expected.sum()
        np.testing.assert_allclose(target[r, k], expected, rtol=2e-4, atol=1e-9)
        total -= (expected * scipy.special.log_softmax(logits[r, k].numpy())).sum()
    assert (target[~valid] == 0).all()
    loss = codec.loss(logits.float(), boxes, keypoints, 1.0)
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_peaks_of_parabolas_are_exact_and_other_surfaces_give_their_cell():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    for cx, cy, tilt in ((3.3, 4.4, 0.0), (0.2, 8.0, 0.3), (-0.4, 0.0, 0.0), (11.4, 8.3, 0.5)):
        dx, dy = x - cx, y - cy
        surface = -(dx * dx + 0.5 * dy * dy + tilt * dx * dy)
        found = peak_2d(surface[None])[0].tolist()
        assert found == pytest.approx([cx, cy], abs=1e-3)
    spike = torch.zeros(1, 9, 12)
    spike[0, 2, 10] = 1
    assert (peak_2d(spike)[0] - torch.tensor([10.0, 2.0])).abs().max() <= 1
    assert peak_2d(torch.zeros(1, 9, 12)).tolist() == [[0, 0]]


def test_integral_expectation_and_its_gradient():
    codec = IntegralCodec()
    logits = torch.randn(2, 3, 7, 9, dtype=torch.float32, requires_grad=True)
    p = scipy.special.softmax(logits.detach().double().numpy(), axis=(2, 3))
    expected = np.stack(
        [(p * np.arange(9)).sum((2, 3)), (p * np.arange(7)[:, None]).sum((2, 3))], axis=2
    )
    found = codec.expectation(logits)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5)
    (gradient,) = torch.autograd.grad(found[0, 0, 0], logits)
    by_hand = p[0, 0] * (np.arange(9) - expected[0, 0, 0])
    np.testing.assert_allclose(gradient[0, 0], by_hand, atol=1e-6)
    assert (gradient[1] == 0).all()


def test_integral_loss_by_the_formula():
    codec = IntegralCodec(sigma=1.5, regularization=0.3)
    boxes, keypoints = _case(4)
    positions, valid = codec.encode(boxes, keypoints, (13, 13))
    logits = torch.randn(4, 3, 13, 13)
    total, cells = 0.0, np.arange(13)
    for r, k in valid.nonzero().tolist():
        x, y = positions[r, k].double().numpy()
        p = scipy.special.softmax(logits[r, k].double().numpy())
        distance = abs((p * cells).sum() - x) + abs((p * cells[:, None]).sum() - y)
        target = np.exp(-((cells - x) ** 2 + (cells[:, None] - y) ** 2) / (2 * 1.5**2))
        total += distance / 6 - 0.3 * (target / target.sum() * np.log(p)).sum()
    loss = codec.loss(logits, boxes, keypoints, 1.0)
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_what_is_far_away_does_not_move_a_decoded_integral():
    codec, cells = IntegralCodec(), torch.arange(56.0)
    logits = -((cells - 12.3).square() + (cells[:, None] - 40.6).square()) / (2 * 2.0**2)
    logits = logits.clamp(min=-7)[None, None]  # a background of a thousandth everywhere
    frame = torch.tensor([[0.0, 0, 55, 55]])  # pixels are cells
    decoded = codec.decode(logits, frame)[0, 0, :2]
    assert decoded.tolist() == pytest.approx([12.3, 40.6], abs=0.2)
    whole = codec.expectation(logits)[0, 0]
    assert (whole - torch.tensor([12.3, 40.6])).abs().min() > 1
    # Without the Gaussian, a map may have any shape
    free = IntegralCodec(regularization=0.0).decode(logits, frame)[0, 0, :2]
    torch.testing.assert_close(free, whole)


def test_simcc_targets_and_loss_against_scipy():
    codec = SimCCCodec(sigma=2.5)
    boxes, keypoints = _case(5)
    (x, _), valid = codec.encode(boxes, keypoints, (32, 48))
    lines = [torch.randn(5, 3, bins) for bins in (32, 48)]
    total = 0.0
    for r, k in valid.nonzero().tolist():
        for axis, (line, bins) in enumerate(zip(lines, (32, 48))):
            low, high = boxes[r, axis].double(), boxes[r, axis + 2].double()
            position = float((keypoints[r, k, axis] - low) / (high - low)) * bins - 0.5
            target = np.exp(-((np.arange(bins) - position) ** 2) / (2 * 2.5**2))
            target /= target.sum()
            if axis == 0:
                np.testing.assert_allclose(x[r, k], target, rtol=1e-3, atol=1e-8)
            softmax = scipy.special.softmax(line[r, k].double().numpy())
            total += scipy.special.rel_entr(target, softmax).sum() / 2
    loss = codec.loss(tuple(lines), boxes, keypoints, 1.0)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    perfect = _perfect(codec, boxes, keypoints)
    assert float(codec.loss(perfect, boxes, keypoints)) == pytest.approx(0, abs=1e-5)


def test_likelihood_without_its_flow_is_a_laplace_likelihood():
    codec = ResidualLikelihoodCodec(residual=False)
    boxes, keypoints = _case(5)
    predictions = torch.randn(5, 3, 4)
    positions, valid = codec.encode(boxes, keypoints, (1, 1))
    deviation = predictions[..., 2:].sigmoid()
    laplace = torch.distributions.Laplace(predictions[..., :2], deviation)
    expected = -laplace.log_prob(positions).sum(dim=2)[valid].sum()
    torch.testing.assert_close(codec.loss(predictions, boxes, keypoints, 1.0), expected)
    assert not list(codec.parameters())


def _trained_flow(steps=6):
    torch.manual_seed(0)
    flow = RealNVP(steps=steps, width=8)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return flow.double()


def test_flow_can_be_inverted_and_knows_its_jacobian():
    flow = _trained_flow()
    latent = torch.randn(50, 2, dtype=torch.float64)
    points = flow(latent)
    back, log_determinant = flow.inverse(points)
    torch.testing.assert_close(back, latent)
    for index in range(5):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: flow.inverse(x[None])[0][0], points[index]
        )
        expected = torch.linalg.det(jacobian).abs().log()
        torch.testing.assert_close(log_determinant[index], expected)


def test_flow_density_integrates_to_one():
    flow = _trained_flow(steps=4)
    axis = torch.linspace(-25, 25, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = flow.log_density(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=5e-3)
    fresh = RealNVP().double()
    points = torch.randn(9, 2, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(points).sum(dim=1)
    torch.testing.assert_close(fresh.log_density(points), normal)


def test_gradients_reach_the_flow():
    codec = ResidualLikelihoodCodec()
    boxes, keypoints = _case(6)
    codec.loss(torch.randn(6, 3, 4), boxes, keypoints).backward()
    gradients = {name: p.grad for name, p in codec.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    assert gradients["flow.scales.5.4.weight"].abs().sum() > 0


# ---- Scores -------------------------------------------------------------------------------------


@each_codec
@pytest.mark.parametrize("score", ["max", "oks", "sigma", "best"])
def test_scores_exist_or_are_refused_by_name(codec, score):
    kind = type(codec)
    if score not in kind.scores:
        with pytest.raises(
            ConfigError, match=rf"KEYPOINT_HEAD.SCORE is '{score}'.*{kind.__name__}"
        ):
            kind(score=score)
        return
    boxes, _ = _case(6)
    decoded = kind(score=score).decode(_random_predictions(codec, 6, 3), boxes)
    assert ((decoded[..., 2] >= 0) & (decoded[..., 2] <= 1)).all()


def test_oks_score_of_a_map_by_brute_force():
    codec = GaussianCodec(score="oks", oks_sigmas=[0.03, 0.1])
    boxes = torch.tensor([[10.0, 20, 60, 140]])
    logits = torch.randn(1, 2, 14, 14) * 2
    decoded = codec.decode(logits, boxes)
    p = scipy.special.softmax(logits.double().numpy(), axis=(2, 3))
    for k, sigma in enumerate((0.03, 0.1)):
        expected = 0.0
        for row, column in np.ndindex(14, 14):
            x, y = 10 + 50 * (column + 0.5) / 14, 20 + 120 * (row + 0.5) / 14
            squares = (x - float(decoded[0, k, 0])) ** 2 + (y - float(decoded[0, k, 1])) ** 2
            expected += p[0, k, row, column] * math.exp(
                -squares / (2 * 50 * 120 * (2 * sigma) ** 2)
            )
        assert float(decoded[0, k, 2]) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ConfigError, match=r"KEYPOINT_OKS_SIGMAS has 3 numbers.*2 keypoints"):
        GaussianCodec(score="oks", oks_sigmas=[0.1] * 3).decode(logits, boxes)


def test_oks_score_of_residual_likelihood_by_quadrature():
    codec = ResidualLikelihoodCodec(score="oks", oks_sigmas=[0.05])
    boxes = torch.tensor([[10.0, 20, 60, 140]])
    predictions = torch.tensor([[[0.1, 0.2, -2.0, -1.0]]])
    b = [scipy.special.expit(-2.0) * 50, scipy.special.expit(-1.0) * 120]
    a = 1 / (2 * 50 * 120 * 0.1**2)
    share = [quad(lambda x, s=s: np.exp(-x / s) / s * np.exp(-a * x * x), 0, np.inf)[0] for s in b]
    found = float(codec.decode(predictions, boxes)[0, 0, 2])
    assert found == pytest.approx(share[0] * share[1], rel=1e-4)


def test_scores_fall_with_spread():
    boxes = BOX.repeat(3, 1)
    keypoints = torch.tensor([[[130.0, 200.0, 2]]]).repeat(3, 1, 1)
    sharpness = torch.tensor([1.0, 0.3, 0.05])
    for score in ("max", "oks"):
        codec = GaussianCodec(score=score)
        maps = _perfect(codec, boxes, keypoints) * sharpness[:, None, None, None]
        values = codec.decode(maps, boxes)[:, 0, 2].tolist()
        assert values == sorted(values, reverse=True), score
        codec = SimCCCodec(score=score)
        lines = [line * sharpness[:, None, None] for line in _perfect(codec, boxes, keypoints)]
        values = codec.decode(tuple(lines), boxes)[:, 0, 2].tolist()
        assert values == sorted(values, reverse=True), score
    perfect = _perfect(GaussianCodec(), boxes, keypoints)
    assert GaussianCodec().decode(perfect, boxes)[0, 0, 2] > 0.9


# ---- Values that cannot work --------------------------------------------------------------------


def test_words_for_wrong_values():
    for kind, name in (
        (GaussianCodec, "SIGMA"),
        (IntegralCodec, "SIGMA"),
        (SimCCCodec, "SIMCC.SIGMA"),
    ):
        with pytest.raises(ConfigError, match=rf"MRCNN_EXT.KEYPOINT_HEAD.{name} is 0"):
            kind(sigma=0)
    with pytest.raises(ConfigError, match=r"RLE.LIMIT is 0.3"):
        ResidualLikelihoodCodec(limit=0.3)
    with pytest.raises(ConfigError, match="coordinates of a codec are 'pixels'"):
        GaussianCodec(frame="pixels")


@pytest.mark.parametrize("codec", [OneHotCodec(), GaussianCodec(), IntegralCodec()])
def test_decoding_can_be_counted_by_fvcore(codec):
    class Decode(torch.nn.Module):
        def forward(self, predictions, boxes):
            return codec.decode(predictions, boxes)

    boxes = torch.tensor([[0.0, 0, 30, 40], [5, 5, 17, 60]])
    count = FlopCountAnalysis(Decode(), (torch.randn(2, 3, 14, 14), boxes))
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert count.total() >= 0


# ---- The registry -------------------------------------------------------------------------------


def _cfg(codec: str):
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    node = cfg.MRCNN_EXT.KEYPOINT_HEAD
    node.CODEC, node.SIGMA, node.SIMCC.SIGMA = codec, 1.25, 3.5
    node.INTEGRAL.REGULARIZATION, node.RLE.LIMIT, node.RLE.FLOW = 0.5, 0.75, False
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.2]
    return cfg


def test_every_codec_is_registered_and_built_from_the_config():
    expected = {
        "one_hot": (OneHotCodec, {}),
        "gaussian": (GaussianCodec, {"sigma": 1.25, "frame": "half_pixel"}),
        "udp": (UDPCodec, {"sigma": 1.25, "frame": "unit_length"}),
        "integral": (IntegralCodec, {"sigma": 1.25, "regularization": 0.5}),
        "simcc": (SimCCCodec, {"sigma": 3.5}),
        "residual_likelihood": (ResidualLikelihoodCodec, {"limit": 0.75, "flow": None}),
    }
    assert {name for name, _ in KEYPOINT_CODEC_REGISTRY} == set(expected)
    for name, (kind, values) in expected.items():
        codec = KEYPOINT_CODEC_REGISTRY.get(name)(_cfg(name))
        assert isinstance(codec, kind)
        assert {key: getattr(codec, key) for key in values} == values
        assert codec.oks_sigmas == [0.1, 0.2]
        assert codec.score == codec.scores[0]
    assert set(codec_names("heatmap")) == {"one_hot", "gaussian", "udp", "integral"}


def test_udp_has_its_frame_without_a_config_too():
    # As LazyConfig builds it
    assert UDPCodec(sigma=1.25).frame == "unit_length"
    assert UDPCodec(sigma=1.25).sigma == 1.25


def test_names_of_codecs_and_words_for_wrong_ones():
    for name in ("rle", "residual_likelihood", "gaussian"):  # the last is of another kind
        codec = build_keypoint_codec(_cfg(name), "H", "distribution", "residual_likelihood")
        assert isinstance(codec, ResidualLikelihoodCodec)
    for name in ("dark", "simcc"):
        with pytest.raises(ConfigError, match=rf"KEYPOINT_HEAD.CODEC is '{name}'; H has .*one_hot"):
            build_keypoint_codec(_cfg(name), "H", "heatmap")
    with pytest.raises(ConfigError, match="CODEC is 'dark'"):
        build_keypoint_codec(_cfg("dark"), "H", "bins", "simcc")


def test_a_subclass_is_registered_under_its_own_name(monkeypatch):
    monkeypatch.setattr(KEYPOINT_CODEC_REGISTRY, "_obj_map", dict(KEYPOINT_CODEC_REGISTRY._obj_map))

    @KEYPOINT_CODEC_REGISTRY.register()
    class Other(GaussianCodec):
        pass

    assert KEYPOINT_CODEC_REGISTRY.get("Other") is Other


def test_the_old_name_of_the_regression_codec_warns():
    with pytest.warns(FutureWarning, match=r"RLECodec moved to .*ResidualLikelihoodCodec"):
        assert keypoint_codecs.RLECodec is ResidualLikelihoodCodec


def test_one_hot_labels_are_of_square_maps():
    with pytest.raises(ValueError, match=r"\(28, 14\) cells"):
        OneHotCodec().encode(*_case(2), (28, 14))


@pytest.mark.parametrize("codec", [GaussianCodec(), IntegralCodec()], ids=["gaussian", "integral"])
def test_maps_need_not_be_square(codec):
    boxes, keypoints = _case(6, outside=-0.01)
    size = (40, 56)
    targets, _ = codec.encode(boxes, keypoints, size)
    if isinstance(codec, IntegralCodec):
        x, y = ((p[..., None] - torch.arange(n)).square() for p, n in zip(targets.unbind(2), size))
        maps = -(y[..., None] + x[..., None, :]) / 8
    else:
        maps = targets.clamp(min=1e-30).log()
    assert maps.shape == (6, 3, 56, 40)
    sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
    error = (codec.decode(maps, boxes) - keypoints)[..., :2] / sides
    # Near the border, it cuts the Gaussian, whose mean then lies further inside.
    middle = ((keypoints[..., :2] - boxes[:, None, :2]) / sides - 0.5).abs() < 0.3
    counted = middle.all(dim=2) & (keypoints[..., 2] > 0)
    assert counted.any()
    assert error[counted].abs().max() < 1e-3
    assert torch.isfinite(codec.loss(maps, boxes, keypoints))
