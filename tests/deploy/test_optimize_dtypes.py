# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""optimize() in half precision, and compiled."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from mrcnn_ext import precision
from mrcnn_ext.deploy import optimize
from mrcnn_ext.errors import ConfigError
from tests.deploy.test_optimize import assert_same, build, images

HALVES = [
    "stock",
    "cascade",
    "stock C4",
    "MrcnnExtPointRendMaskHead",
    "MrcnnExtDynamicMaskHead",
    "MrcnnExtHeatmapKeypointHead",
    "MrcnnExtRegressionKeypointHead",
    "KRCNNConvDeconvUpsampleHead",
]


@pytest.fixture
def emulated(monkeypatch):
    """Let types be used that this processor has not: slow, the same numbers."""
    monkeypatch.setattr(precision, "why_not", lambda *arguments: "")


@pytest.mark.parametrize("name", HALVES)
def test_bfloat16_layers_and_float32_results(name, emulated):
    model = build(name)
    fast = optimize(model, dtype="bfloat16")
    inputs = images()[:1]
    seen: dict[str, set] = {"layers": set(), "predictors": set()}
    for module in fast.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: seen["layers"].add(o.dtype))
        if isinstance(module, FastRCNNOutputLayers):
            module.register_forward_hook(
                lambda m, i, o: seen["predictors"].update({o[0].dtype, o[1].dtype})
            )
    (found,) = fast(inputs)
    found = found["instances"]
    assert torch.bfloat16 in seen["layers"]
    assert seen["predictors"] == {torch.float32}
    masks = found.deferred_masks
    tensors = [found.pred_boxes.tensor, found.scores, *([masks.masks] if masks else [])]
    if found.has("pred_keypoints"):
        tensors.append(found.pred_keypoints)
    assert {t.dtype for t in tensors} == {torch.float32}
    assert all(torch.isfinite(t).all() for t in tensors)


def test_bfloat16_features_are_near_those_of_float32(emulated):
    model = build("stock")
    fast = optimize(model, dtype="bfloat16")
    image = model.preprocess_image(images()[:1]).tensor
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = fast.backbone(image)
    with torch.no_grad():
        expected = model.backbone(image)
    for name, value in expected.items():
        assert found[name].dtype == torch.bfloat16
        assert (found[name].float() - value).std() < 0.05 * value.std()


def test_a_dtype_that_the_processor_lacks(monkeypatch):
    monkeypatch.setattr(precision, "_processor", lambda: ("Some CPU", frozenset({"avx2"})))
    for dtype, needed in (("bfloat16", "AVX512-BF16 or AMX-BF16"), ("float16", "AVX512-FP16")):
        with pytest.raises(
            ConfigError, match=rf"dtype is '{dtype}', but the processor \(Some CPU\)"
        ) as e:
            optimize(build("stock"), dtype=dtype)
        assert needed in str(e.value)
        assert "hundred times slower" in str(e.value)
    assert optimize(build("stock")).number_type == torch.float32  # "auto"


@pytest.mark.slow
def test_compiled_parts_give_the_same_results():
    model = build("stock")
    fast = optimize(model, compile=True)
    assert {"backbone", "proposal_generator.rpn_head", "roi_heads.box_head"} <= set(
        fast.compiled_parts
    )
    with torch.no_grad():
        expected = model(images())
    assert_same(expected, fast(images()))


def test_compile_names_a_missing_compiler(monkeypatch):
    from torch._inductor import cpp_builder

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", _no_compiler)
    with pytest.raises(ConfigError, match=r"compile is True, but .* no C\+\+ compiler"):
        optimize(build("stock"), compile=True)


def _no_compiler():
    raise RuntimeError("no compiler")
