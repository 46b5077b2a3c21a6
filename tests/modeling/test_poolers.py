# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""FusedROIPooler against Detectron2's ROIPooler and against torchvision in float64; swap_poolers."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import nn
from torchvision.ops import roi_align

from mrcnn_ext.modeling import FusedROIPooler, swap_poolers
from mrcnn_ext.modeling.poolers import fuse_pooler

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
# Both sides add up float32 products of features of order 1, at most in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _features(num_images=2, channels=3, scales=SCALES, size=(256, 320), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    height, width = size
    return [
        torch.randn(
            num_images, channels, int(height * s), int(width * s), generator=generator
        ).to(dtype)
        for s in scales
    ]  # fmt: skip


def _boxes(counts=(40, 0, 25), size=(256, 320), seed=2):
    """Boxes of 4 to 250 pixels, some of them over the image's border."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for count in counts:
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]])
        half = 2 * 60 ** torch.rand(count, 2, generator=generator)
        result.append(Boxes(torch.cat([centre - half, centre + half], dim=1)))
    return result


def _pair(output_size=7, scales=SCALES, ratio=0, kind="ROIAlignV2", **kwargs):
    arguments = (output_size, scales, ratio, kind)
    return FusedROIPooler(*arguments, **kwargs), ROIPooler(*arguments, **kwargs)


def _exact(features, boxes, output_size, ratio=0, scales=SCALES):
    """RoIAlign in float64, box by box, on the level of Detectron2's rule."""
    levels = torch.zeros(sum(map(len, boxes)), dtype=torch.int64)
    if len(scales) > 1:
        levels = assign_boxes_to_levels(boxes, 2, 1 + len(scales), 224, 4)
    owner = [i for i, item in enumerate(boxes) for _ in range(len(item))]
    rows = torch.cat([item.tensor for item in boxes]).double()
    results = [
        roi_align(
            features[level][image][None].double(), [row[None]], output_size, scales[level], ratio, True
        )
        for image, row, level in zip(owner, rows, levels.tolist())
    ]  # fmt: skip
    return torch.cat(results)


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("scales", [SCALES, SCALES[:1], SCALES[2:3]])
def test_values_and_gradients_are_those_of_roipooler(kind, ratio, scales):
    ours, stock = _pair(ratio=ratio, kind=kind, scales=scales)
    boxes = _boxes()
    results, gradients = [], []
    for pooler in (ours, stock):
        features = [f.requires_grad_() for f in _features(3, scales=scales)]
        results.append(pooler(features, boxes))
        weights = torch.linspace(-1, 1, results[-1].numel()).view_as(results[-1])
        gradients.append(torch.autograd.grad((results[-1] * weights).sum(), features))
    assert results[0].shape == (65, 3, 7, 7)
    torch.testing.assert_close(results[0], results[1], **CLOSE)
    for ours_gradient, stock_gradient in zip(*gradients):
        torch.testing.assert_close(ours_gradient, stock_gradient, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("canonical", [{"canonical_box_size": 112}, {"canonical_level": 3}])
def test_canonical_size_and_level_are_honoured(canonical):
    ours, stock = _pair(**canonical)
    features, boxes = _features(3), _boxes()
    expected = stock(features, boxes)
    torch.testing.assert_close(ours(features, boxes), expected, **CLOSE)
    assert not torch.allclose(_pair()[0](features, boxes), expected, atol=1e-2)


def test_a_sampling_ratio_may_be_a_float():
    """Detectron2's own test of a pooler without images has sampling_ratio=0.0."""
    features, boxes = _features(2), _boxes((12, 5))
    ours = FusedROIPooler(7, SCALES, 2.0, "ROIAlignV2")
    assert torch.equal(ours(features, boxes), _pair(ratio=2)[0](features, boxes))
    with pytest.raises(ValueError, match=r"sampling_ratio must be a whole number, not 0\.5"):
        FusedROIPooler(7, SCALES, 0.5, "ROIAlignV2")(features, boxes)


@pytest.mark.parametrize("size", [(5, 9), [9, 5]])
@pytest.mark.parametrize("scales", [SCALES, SCALES[1:2]])
def test_results_may_be_other_than_square(size, scales):
    ours, stock = _pair(output_size=size, scales=scales)
    features, boxes = _features(2, scales=scales), _boxes((12, 5))
    result = ours(features, boxes)
    torch.testing.assert_close(
        result.double(), _exact(features, boxes, tuple(size), scales=scales), **CLOSE
    )
    if len(scales) == 1:
        torch.testing.assert_close(result, stock(features, boxes), **CLOSE)
    assert ours([f[:0] for f in features], []).shape == (0, 3, *size)


def test_without_boxes_and_without_images():
    ours, stock = _pair()
    features = [f.requires_grad_() for f in _features(2)]
    empty = [Boxes(torch.zeros(0, 4))] * 2
    result = ours(features, empty)
    assert result.shape == stock(features, empty).shape == (0, 3, 7, 7)
    result.sum().backward()
    assert all(not f.grad.any() for f in features)

    nothing = [f.detach()[:0].requires_grad_() for f in features]
    result = ours(nothing, [])
    assert result.shape == stock(nothing, []).shape == (0, 3, 7, 7)
    assert result.requires_grad
    assert ours([f.bfloat16() for f in nothing], []).dtype == torch.bfloat16


# With one level and ratio 0, torchvision fails on a negative area ("vector larger than max_size").
@pytest.mark.parametrize(("scales", "ratio"), [(SCALES, 0), (SCALES, 2), (SCALES[:1], 2)])
def test_degenerate_boxes_are_treated_as_detectron2_treats_them(scales, ratio):
    boxes = [Boxes(torch.tensor([
        [50.0, 50.0, 50.0, 90.0],  # empty
        [90.0, 90.0, 60.0, 50.0],  # inverted in both axes: a positive area
        [90.0, 50.0, 60.0, 90.0],  # inverted in one: a negative area
        [400.0, 300.0, 500.0, 400.0],  # outside of the image
        [-100.0, -80.0, 900.0, 800.0],  # larger than the image
        [60.0, 50.0, 90.0, 90.0],
    ]))]  # fmt: skip
    ours, stock = _pair(scales=scales, ratio=ratio)
    features = _features(1, scales=scales)
    result = ours(features, boxes)
    torch.testing.assert_close(result, stock(features, boxes), **CLOSE)
    if len(scales) > 1:
        assert not result[2].any()
    assert result[5].any()


@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_boxes_stay_exact_when_features_are_in_half_precision(dtype, unit):
    """All that may be lost is the rounding of the result; Detectron2 rounds the boxes too."""
    scales = SCALES[:2]
    ours, stock = _pair(scales=scales)
    features = _features(1, scales=scales, size=(800, 1280), dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(60, 2, generator=generator) * torch.tensor([1150.0, 700.0])
    size = 10 + 80 * torch.rand(60, 2, generator=generator)
    boxes = [Boxes(torch.cat([corner, corner + size], dim=1))]
    rounded = [Boxes(boxes[0].tensor.to(dtype).float())]

    exact = _exact(features, boxes, 7, scales=scales)
    result = ours(features, boxes)
    assert result.dtype == dtype
    error = (result.double() - exact).abs()
    assert (error <= unit * exact.abs() + 1e-4).all()  # 1e-4: of float32 coordinates
    # torchvision's CPU op takes no bfloat16: what Detectron2 does then, in float32
    with_rounded_boxes = stock([f.float() for f in features], rounded)
    assert (with_rounded_boxes - exact).abs().max() > 100 * unit

    # Boxes that come in half precision are an input like any other.
    half = Boxes(boxes[0].tensor)
    half.tensor = half.tensor.to(dtype)
    assert torch.equal(ours(features, [half]), ours(features, rounded))


def test_more_images_than_bfloat16_can_count():
    pooler = FusedROIPooler(1, (1 / 4,), 1, "ROIAlignV2")
    features = [torch.arange(300.0)[:, None, None, None].expand(300, 1, 4, 4)]
    boxes = [Boxes(torch.tensor([[0.0, 0.0, 16.0, 16.0]])) for _ in range(300)]
    for item in boxes:
        item.tensor = item.tensor.bfloat16()
    assert torch.equal(pooler(features, boxes).flatten(), torch.arange(300.0))


def test_autocast_and_memory_format():
    ours, _ = _pair()
    features, boxes = _features(2), _boxes((10, 10))
    expected = ours(features, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(features, boxes), expected)
    last = [f.to(memory_format=torch.channels_last) for f in features]
    torch.testing.assert_close(ours(last, boxes), expected, **CLOSE)


@pytest.mark.parametrize("scales", [SCALES, SCALES[:1]])
def test_roipool_is_detectron2s_own(scales):
    ours, stock = _pair(kind="ROIPool", scales=scales)
    features, boxes = _features(2, scales=scales), _boxes((20, 10))
    assert torch.equal(ours(features, boxes), stock(features, boxes))
    assert not torch.allclose(ours(features, boxes), _pair(scales=scales)[0](features, boxes))


def test_constructor_is_detectron2s():
    assert not FusedROIPooler(7, SCALES, 0, "ROIAlignV2").state_dict()
    rotated = FusedROIPooler(7, SCALES, 0, "ROIAlignRotated")
    assert type(rotated.level_poolers[0]).__name__ == "ROIAlignRotated"
    with pytest.raises(ValueError, match="Unknown pooler type: NoSuchPooler"):
        FusedROIPooler(7, SCALES, 0, "NoSuchPooler")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, b: (tuple(x), b), TypeError, "a list of Boxes, not tuple and list"),
        (lambda x, b: (x[:3], b), ValueError, "4 scales, but got 3 maps"),
        (lambda x, b: (x, b[:1]), ValueError, "boxes of 1 images, but features of 2"),
        (lambda x, b: (x[:3] + [x[3].double()], b), TypeError, r"features\[3\] is torch.float64"),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    with pytest.raises(error, match=message):
        _pair()[0](*change(_features(2), _boxes((2, 3))))


# ------------------------------------------------------------------- what becomes of it in exports


class _OnTensors(nn.Module):
    """A pooler that takes and returns tensors only, as exports want it."""

    def __init__(self, pooler):
        super().__init__()
        self.pooler = pooler

    def forward(self, features: list[torch.Tensor], boxes: list[torch.Tensor]):
        return self.pooler(features, [Boxes(item) for item in boxes])


def _tensors(counts=(8, 4)):
    return _features(2), [item.tensor for item in _boxes(counts)]


def test_a_traced_pooler_needs_nothing_of_this_package():
    model = _OnTensors(_pair()[0])
    with pytest.warns():  # of the tracer, about Detectron2's assertions
        traced = torch.jit.trace(model, _tensors())
    assert "mrcnn_ext::" not in str(traced.inlined_graph)
    for arguments in (_tensors(), _tensors((3, 9))):
        torch.testing.assert_close(traced(*arguments), model(*arguments), **CLOSE)


@pytest.mark.parametrize("kind", ["ROIAlign", "ROIAlignV2"])
@pytest.mark.filterwarnings("ignore:`torch.jit.")
def test_a_scripted_pooler_needs_nothing_of_this_package(kind):
    ours, _ = _pair(kind=kind, canonical_box_size=112)
    scripted = torch.jit.script(ours)
    assert "mrcnn_ext::" not in str(scripted.inlined_graph)
    assert type(ours) is FusedROIPooler
    features, boxes = _features(3), _boxes()
    torch.testing.assert_close(scripted(features, boxes), ours(features, boxes), **CLOSE)


def _ops(graph_module):
    return {str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("strict", [True, False])
def test_torch_export_keeps_the_op(strict):
    model, arguments = _OnTensors(_pair()[0]), _tensors()
    program = torch.export.export(model, arguments, strict=strict)
    assert "mrcnn_ext.roi_align_pyramid.default" in _ops(program.graph_module)
    torch.testing.assert_close(program.module()(*arguments), model(*arguments))


def test_torch_export_takes_any_number_of_boxes():
    model = _OnTensors(_pair()[0])
    count = [torch.export.Dim(f"boxes_{i}", min=2, max=1000) for i in range(2)]
    program = torch.export.export(
        model, _tensors(), dynamic_shapes=([{}, {}, {}, {}], [{0: c} for c in count])
    )
    arguments = _tensors((17, 5))
    torch.testing.assert_close(program.module()(*arguments), model(*arguments))


def test_torch_compile_keeps_the_op_in_one_graph():
    graphs = []

    def backend(graph_module, _):
        graphs.append(graph_module)
        return graph_module.forward

    model = _OnTensors(_pair()[0])
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    arguments = _tensors()
    torch.testing.assert_close(compiled(*arguments), model(*arguments))
    assert len(graphs) == 1
    assert any("mrcnn_ext.roi_align_pyramid" in name for name in _ops(graphs[0]))


def test_onnx_export_gets_standard_ops(monkeypatch):
    """What torch.onnx.export would see; the export itself needs the onnx package."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    model, arguments = _OnTensors(FusedROIPooler(7, (1 / 4,), 2, "ROIAlignV2")), _tensors()
    arguments = (arguments[0][:1], arguments[1])
    program = torch.export.export(model, arguments, strict=False)
    assert "mrcnn_ext.roi_align_pyramid.default" not in _ops(program.graph_module)
    assert "torchvision.roi_align.default" in _ops(program.graph_module)


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_answers_the_same(dynamo, tmp_path):
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, (features, boxes) = _OnTensors(_pair(ratio=2)[0]), _tensors()
    file = str(tmp_path / "pooler.onnx")
    torch.onnx.export(
        model, (features, boxes), file, dynamo=dynamo, opset_version=18, verbose=False
    )
    session = runtime.InferenceSession(file)
    names = [item.name for item in session.get_inputs()]
    (result,) = session.run(None, {n: x.numpy() for n, x in zip(names, features + boxes)})
    torch.testing.assert_close(torch.from_numpy(result), model(features, boxes), **CLOSE)


# --------------------------------------------------------------------------------------- conversion


class _OwnPooler(ROIPooler):
    pass


class _OwnAlign(ROIAlign):
    pass


def _own_operator():
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    pooler.level_poolers[1].__class__ = _OwnAlign
    return pooler


@pytest.mark.parametrize(
    "pooler",
    [
        None,
        nn.Identity(),
        ROIPooler(7, SCALES, 0, "ROIPool"),
        ROIPooler(7, SCALES, 0, "ROIAlignRotated"),
        _OwnPooler(7, SCALES, 0, "ROIAlignV2"),
        _own_operator(),
        FusedROIPooler(7, SCALES, 0, "ROIAlignV2"),
    ],
)
def test_poolers_of_another_kind_are_left_alone(pooler):
    before = type(pooler)
    assert fuse_pooler(pooler) is pooler
    if pooler is not None:
        assert swap_poolers(nn.Sequential(pooler)) == 0
    assert type(pooler) is before


def test_a_fused_copy_leaves_the_original():
    stock = ROIPooler((7, 5), SCALES, 2, "ROIAlign", canonical_box_size=112, canonical_level=5)
    fused = fuse_pooler(stock)
    assert type(stock) is ROIPooler
    assert type(fused) is FusedROIPooler
    attributes = ("output_size", "min_level", "max_level", "canonical_box_size", "canonical_level")
    assert [getattr(fused, a) for a in attributes] == [getattr(stock, a) for a in attributes]
    assert fused.level_poolers[0].sampling_ratio == 2
    assert not fused.level_poolers[0].aligned


def test_swap_poolers_keeps_owners_names_hooks_and_results():
    calls = []
    model = nn.ModuleDict(
        {"first": ROIPooler(7, SCALES, 0, "ROIAlignV2"), "layer": nn.Linear(2, 2)}
    )
    shared = ROIPooler(14, SCALES, 2, "ROIAlign")
    model["second"], model["inner"] = shared, nn.Sequential(shared)
    model["first"].register_forward_hook(lambda *_: calls.append(1))
    stock = copy.deepcopy(model)
    names = [name for name, _ in model.named_modules()]
    assert swap_poolers(model) == 2
    assert swap_poolers(model) == 0
    assert type(model["first"]) is type(model["second"]) is FusedROIPooler
    assert model["second"] is model["inner"][0]
    assert [name for name, _ in model.named_modules()] == names
    assert model.state_dict().keys() == stock.state_dict().keys()
    features, boxes = _features(3), _boxes()
    for name in ("first", "second"):
        torch.testing.assert_close(
            model[name](features, boxes), stock[name](features, boxes), **CLOSE
        )
    assert len(calls) == 2  # the copy's hook and the original's


def test_a_pooler_itself_can_be_swapped():
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    assert swap_poolers(pooler) == 1
    assert type(pooler) is FusedROIPooler
    assert type(copy.deepcopy(pooler)) is FusedROIPooler


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "not NoneType"),
        ([nn.Identity()], "not list"),
        ({"model": 1}, "not dict; build it first, with build_model or instantiate"),
    ],
)
def test_swap_poolers_names_what_is_no_module(given, message):
    with pytest.raises(TypeError, match=message):
        swap_poolers(given)
