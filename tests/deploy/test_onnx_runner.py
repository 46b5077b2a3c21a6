# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The runner against Pillow, Detectron2 and pycocotools; alone; and on files that are wrong."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import paste_masks_in_image
from detectron2.structures import heatmaps_to_keypoints
from PIL import Image
from pycocotools import mask as mask_util

from mrcnn_ext.deploy import Detections, OnnxModel, RunnerError, onnx_runner
from mrcnn_ext.deploy.onnx_runner import encode_mask, main, resize_image
from mrcnn_ext.modeling.keypoint_codecs import OneHotCodec
from tests.deploy.constant_model import INFO, some_outputs, write_model
from tests.helpers import run_python

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


# ---- Pictures ----------------------------------------------------------------------------------------


def _assert_as_pillow(generator, height, width, new_height, new_width):
    image = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.BILINEAR)
    found = resize_image(image, new_height, new_width)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.asarray(resized)).max() <= 1


def test_resizing_is_pillows():
    generator = np.random.default_rng(0)
    for sides in generator.integers(1, 120, (150, 4)).tolist():
        _assert_as_pillow(generator, *sides)
    # one axis alone is equal to the bit, whatever Pillow's version
    image = generator.integers(0, 256, (37, 91, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((40, 37), Image.BILINEAR))
    assert np.array_equal(resize_image(image, 37, 40), expected)


@pytest.mark.slow
def test_resizing_of_large_images_is_pillows():
    generator = np.random.default_rng(1)
    for sides in ((3000, 4000, 800, 1067), (480, 640, 800, 1067), (5, 3000, 2, 1333)):
        _assert_as_pillow(generator, *sides)


def test_sizes_are_detectron2s(tmp_path):
    model = OnnxModel(write_model(tmp_path / "m.onnx", some_outputs()), threads=1)
    generator = np.random.default_rng(0)
    for min_size, max_size in ((800, 1333), (272, 384), (50, 80)):
        model.info["resize"].update(min_size=min_size, max_size=max_size)
        for height, width in generator.integers(1, 5000, (500, 2)).tolist():
            expected = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
            assert model.resized_shape(height, width) == expected
    model.info["resize"]["min_size"] = 0
    assert model.resized_shape(123, 45) == (123, 45)


# ---- Masks -------------------------------------------------------------------------------------------


def test_run_lengths_are_pycocotools():
    generator = np.random.default_rng(0)
    for index in range(400):
        part = generator.random(generator.integers(1, 40, 2)) < generator.random()
        if index % 3 == 0:
            part[:, : generator.integers(0, part.shape[1] + 1)] = True  # runs across columns
        if index % 7 == 0:
            part[:] = index % 2
        y, x, below, beside = generator.integers(0, 4, 4).tolist()
        whole = np.pad(part, ((y, below), (x, beside)))
        expected = mask_util.encode(np.asfortranarray(whole, dtype=np.uint8))["counts"]
        assert encode_mask(y, x, part, *whole.shape) == expected.decode()


def test_run_lengths_of_a_large_image():
    whole = np.zeros((3000, 4100), dtype=bool)
    whole[10:2999, 40:4000] = True
    expected = mask_util.encode(np.asfortranarray(whole, dtype=np.uint8))["counts"]
    assert encode_mask(0, 0, whole, *whole.shape) == expected.decode()


def test_pasted_masks_are_detectron2s():
    generator = np.random.default_rng(0)
    differing = pixels = 0
    for side in (7, 14, 28, 112):
        for _ in range(4):
            height, width = generator.integers(20, 200, 2).tolist()
            spots = generator.random((6, 5, 5)).astype(np.float32)
            masks = np.stack([cv2.resize(spot, (side, side)) for spot in spots])
            ends = generator.random((2, 6, 2)) * [width, height]
            boxes = np.concatenate([ends.min(0), ends.max(0)], axis=1).astype(np.float32)
            size = (height, width)
            tensors = torch.from_numpy(masks), torch.from_numpy(boxes)
            expected = paste_masks_in_image(*tensors, size, threshold=0.5).numpy()
            found = Detections(size, boxes, np.ones(6), np.zeros(6, np.int64), masks)
            differing += int((found.masks() != expected).sum())
            pixels += int(expected.sum())
            decoded = [mask_util.decode(rle) for rle in found.rles()]
            assert np.array_equal(np.stack(decoded), found.masks())
    assert differing <= 1e-3 * pixels


def test_boxes_beside_the_image_and_without_area_have_empty_masks():
    boxes = np.array([[50, 50, 60, 60], [3, 3, 3, 9], [-9, -9, -2, -2]], np.float32)
    masks = np.ones((3, 7, 7), np.float32)
    found = Detections((20, 30), boxes, np.ones(3), np.zeros(3, np.int64), masks)
    assert not found.masks().any()
    assert mask_util.area(found.rles()).tolist() == [0, 0, 0]


# ---- Keypoints ---------------------------------------------------------------------------------------

_BOXES = [[3.2, 4, 50, 90], [0, 0, 150.5, 100], [5, 5, 5.2, 5.1], [10, 20, 200, 250.7]]


def _maps(number: int = 6) -> torch.Tensor:
    maps = torch.randn(len(_BOXES), number, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(maps, size=28, mode="bicubic")


def test_decoded_heatmaps_are_detectron2s():
    maps, boxes = _maps(), torch.tensor(_BOXES)
    expected = heatmaps_to_keypoints(maps, boxes)[:, :, [0, 1, 3]].numpy()
    found = [onnx_runner.decode_heatmaps(m, b) for m, b in zip(maps.numpy(), boxes.numpy())]
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-3)


@pytest.mark.parametrize("fold_score", [False, True])
@pytest.mark.parametrize("score", ["max", "oks"])
def test_scores_and_classes_of_keypoints_are_the_heads(score, fold_score, tmp_path):
    rule = {
        "score": score,
        "sigmas": [0.05] * 6,
        "class_keypoints": [[True] * 4 + [False] * 2, [False] * 6],
        "fold_score": fold_score,
        "slots": None,
    }
    model = OnnxModel(write_model(tmp_path / "m.onnx", some_outputs(), keypoints=rule), threads=1)
    maps, boxes = _maps(), torch.tensor(_BOXES)
    scores, classes = np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 1, 0, 1])
    points, folded = model._decode(maps.numpy(), boxes.numpy(), scores, classes)
    expected = OneHotCodec(score=score).decode(maps, boxes).numpy()
    np.testing.assert_allclose(points[[0, 2], :4], expected[[0, 2], :4], atol=1e-3)
    middle = (boxes[:, :2] + boxes[:, 2:]).numpy() / 2
    np.testing.assert_allclose(points[1], [[*middle[1], 0]] * 6, atol=1e-4)
    mean = expected[[0, 2], :4, 2].mean(1) if fold_score else 1
    np.testing.assert_allclose(folded[[0, 2]], scores[[0, 2]] * mean, rtol=1e-5)
    np.testing.assert_allclose(folded[[1, 3]], scores[[1, 3]])  # a class without keypoints


# ---- Models ------------------------------------------------------------------------------------------


def test_results_are_in_pixels_of_the_image(tmp_path):
    outputs = some_outputs()
    model = OnnxModel(write_model(tmp_path / "m.onnx", outputs), threads=1)
    found = model(np.zeros((100, 160, 3), np.uint8))  # resized to 50 x 80
    assert found.image_size == (100, 160)
    np.testing.assert_allclose(found.boxes, outputs["boxes"][:2] * 2)  # the third has no area
    assert found.classes.tolist() == [1, 0]
    assert found.masks().shape == (2, 100, 160)
    assert len(found.select(found.scores > 0.7)) == 1


def test_boxes_end_at_the_image(tmp_path):
    outputs = some_outputs()
    outputs["boxes"][0] = [-5, -5, 500, 500]
    model = OnnxModel(write_model(tmp_path / "m.onnx", outputs), threads=1)
    assert model(np.zeros((50, 80, 3), np.uint8)).boxes[0].tolist() == [0, 0, 80, 50]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9), np.uint8), r"shape \(9, 9\); expected \(height, width, 3\), BGR"),
        (np.zeros((9, 9, 4), np.uint8), r"shape \(9, 9, 4\)"),
        (np.zeros((9, 9, 3), np.float32), r"is float32 \(9, 9, 3\); expected uint8"),
        (np.zeros((0, 9, 3), np.uint8), r"expected uint8 with pixels"),
        ("photo.jpg", r"the shape str"),
    ],
)
def test_wrong_images(image, message, tmp_path):
    model = OnnxModel(write_model(tmp_path / "m.onnx", some_outputs()), threads=1)
    with pytest.raises(RunnerError, match=message):
        model(image)


def test_wrong_resized_images(tmp_path):
    model = OnnxModel(write_model(tmp_path / "m.onnx", some_outputs()), threads=1)
    with pytest.raises(RunnerError, match=r"there is no image \(cv2\.imread gives None"):
        model(None)
    with pytest.raises(RunnerError, match=r"input is float64 \(3, 4, 4\); expected float32"):
        model.run_resized(np.zeros((3, 4, 4)), (4, 4))


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(RunnerError, match=r"there is no such file"):
        OnnxModel(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(RunnerError, match=r"text.onnx: is no ONNX file, or damaged"):
        OnnxModel(tmp_path / "text.onnx")
    other = write_model(tmp_path / "other.onnx", some_outputs(), metadata={"author": "other"})
    with pytest.raises(RunnerError, match=r"is no model that python -m mrcnn_ext.export wrote"):
        OnnxModel(other)
    for content, message in (
        ("{", "is no json of a model"),
        ("5", "is no json of a model"),
        ('{"num_classes": 1}', "lacks classes, category_ids, "),
    ):
        metadata = {"mrcnn_ext_format": "1", "mrcnn_ext": content}
        with pytest.raises(RunnerError, match=f"bad.onnx: its metadata 'mrcnn_ext' {message}"):
            OnnxModel(write_model(tmp_path / "bad.onnx", some_outputs(), metadata=metadata))
    metadata = {"mrcnn_ext_format": "3", "mrcnn_ext": json.dumps(INFO)}
    newer = write_model(tmp_path / "newer.onnx", some_outputs(), metadata=metadata)
    with pytest.raises(RunnerError, match=r"its format is 3, but this runner knows 2"):
        OnnxModel(newer)


def test_missing_runtime_and_provider(tmp_path, monkeypatch):
    file = write_model(tmp_path / "m.onnx", some_outputs())
    with pytest.raises(RunnerError, match=r"this onnxruntime has no NoProvider, but "):
        OnnxModel(file, providers=["NoProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunnerError, match=r"is not installed: pip install onnxruntime\."):
        OnnxModel(file)


# ---- Command -----------------------------------------------------------------------------------------


def test_the_file_needs_three_packages_only():
    tree = ast.parse(Path(onnx_runner.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module.partition(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "cv2", "onnxruntime"}


def test_the_command_alone(tmp_path):
    """In a process that cannot import torch, Detectron2 or this package."""
    for name in ("torch", "torchvision", "detectron2", "mrcnn_ext", "PIL", "pycocotools"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')")
    script = shutil.copy(onnx_runner.__file__, tmp_path)
    write_model(tmp_path / "m.onnx", some_outputs())
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 160, 3), np.uint8))
    (tmp_path / "b.png").write_text("no image")
    result = run_python(
        [script, "m.onnx", "a.png", "b.png", "--output", "r.json", "--threads", "1"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1, result.stderr
    assert "left out: b.png: cannot be read as an image" in result.stderr
    assert result.stdout == "1 images, 2 instances, written to r.json\n"
    records = json.loads((tmp_path / "r.json").read_text())
    assert [r["category_id"] for r in records] == [9, 7]
    assert records[0]["bbox"] == pytest.approx([10, 10, 50, 70])
    assert mask_util.decode(records[0]["segmentation"]).shape == (100, 160)


def test_keypoints_of_the_class_are_written(tmp_path):
    rule = {
        "score": "max",
        "sigmas": None,
        "class_keypoints": None,
        "fold_score": False,
        "slots": [[True, True, False], [False, False, False]],
    }
    write_model(tmp_path / "m.onnx", some_outputs(keypoints=3), keypoints=rule)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 80, 3), np.uint8))
    arguments = [tmp_path / "m.onnx", tmp_path / "a.png", "--output", tmp_path / "r.json"]
    assert main([*map(str, arguments), "--threads", "1", "--score-threshold", "0"]) == 0
    records = json.loads((tmp_path / "r.json").read_text())
    assert [len(r.get("keypoints", [])) for r in records] == [0, 6]


def test_wrong_use(tmp_path, capsys):
    file = write_model(tmp_path / "m.onnx", some_outputs())
    for arguments, message in (
        ([file, tmp_path / "none.png"], "there is no such file or folder"),
        ([tmp_path / "none.onnx", file], "there is no such file"),
    ):
        output = ["--output", str(tmp_path / "r.json")]
        assert main([*map(str, arguments), *output]) == 2
        assert message in capsys.readouterr().err
    assert main([str(file), str(file), "--output", str(tmp_path / "no" / "r.json")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
