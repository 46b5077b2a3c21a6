# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""python -m mrcnn_ext.predict: inputs, outputs, and what happens when they are bad."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import DefaultPredictor
from pycocotools import mask as mask_util

from mrcnn_ext import model_zoo
from mrcnn_ext.errors import ConfigError, DataError, WeightsError
from mrcnn_ext.predict import Predictor, find_sources, load_config
from mrcnn_ext.predict.__main__ import main
from tests.helpers import timm_cfg
from tests.predict.conftest import noise, write_clip


def _run(config, *arguments, threshold="0"):
    return main(
        ["--config-file", str(config), "--score-threshold", threshold, *map(str, arguments)]
    )


def test_predictor_equals_detectron2s(trained):
    _, cfg = trained
    image = noise(3)
    expected = DefaultPredictor(cfg)(image)["instances"]
    got = Predictor(cfg, device="cpu", optimized=False)(image)["instances"]
    assert len(expected) == 5
    assert torch.equal(got.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(got.scores, expected.scores)
    assert torch.equal(got.pred_masks, expected.pred_masks)
    fast = Predictor(cfg, device="cpu")(image)["instances"]  # the same up to rounding
    assert torch.allclose(fast.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3)
    assert torch.allclose(fast.scores, expected.scores, atol=1e-5)
    assert (fast.pred_masks != expected.pred_masks).float().mean() < 1e-4


def test_no_optimize_runs_the_model_as_built(trained, photos, tmp_path, monkeypatch):
    config, _ = trained
    kinds = []
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, image: kinds.append(type(self.model).__name__) or {}
    )
    for number, options in enumerate(([], ["--no-optimize"])):
        _run(config, photos, "--output", tmp_path / str(number), "--no-pictures", *options)
    assert set(kinds) == {"_OptimizedRCNNMrcnnExtRCNN", "MrcnnExtRCNN"}


def test_lazy_config_equals_its_model(tmp_path):
    cfg = load_config("Shapes/mask_rcnn_Lite0_FPN.py")
    torch.manual_seed(0)
    cfg.model.roi_heads.box_predictor.test_score_thresh = 0.0
    model = instantiate(cfg.model).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    predictor = Predictor(cfg, weights=str(tmp_path / "model.pth"), device="cpu")
    image = noise(4, 272, 300)  # the test size: no resizing
    tensor = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float()
    with torch.no_grad():
        expected = model([{"image": tensor, "height": 272, "width": 300}])[0]["instances"]
    got = predictor(image)["instances"]
    assert torch.allclose(got.scores, expected.scores, atol=1e-5)
    assert predictor.metadata.thing_classes[0] == "ring"


def test_folder_gives_pictures_and_both_json_files(trained, photos, tmp_path, capsys):
    config, cfg = trained
    out = tmp_path / "out"
    assert _run(config, photos, "--output", out) == 0
    assert "3 images, 15 instances, written to" in capsys.readouterr().out
    names = sorted(p.relative_to(out / "pictures").as_posix() for p in out.rglob("*.png"))
    assert names == ["a.png", "b.jpg.png", "more/a.png"]
    content = json.loads((out / "predictions.json").read_text())
    assert content["classes"][0] == "ring"
    assert [image["file"] for image in content["images"]] == ["a.png", "b.jpg", "more/a.png"]
    results = json.loads((out / "coco_results.json").read_text())
    assert len(results) == 15
    assert {r["image_id"] for r in results} == {0, 1, 2}

    expected = Predictor(cfg, device="cpu")(noise(0))["instances"]
    instances = content["images"][0]["instances"]
    for index, entry in enumerate(instances):
        mask = mask_util.decode(entry["segmentation"])
        assert np.array_equal(mask.astype(bool), expected.pred_masks[index].numpy())
        x0, y0, x1, y1 = expected.pred_boxes.tensor[index].tolist()
        assert entry["bbox_xywh"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=1e-3)
        assert entry["class_name"] == content["classes"][entry["class_id"]]
        assert results[index]["category_id"] == entry["class_id"] + 1  # as in the set's json
    assert not list(out.glob(".*"))


def test_images_of_one_size_go_through_the_model_together(trained, tmp_path, monkeypatch, capsys):
    config, _ = trained
    folder, sizes = tmp_path / "in", [80, 80, 80, 64, 80, 80, 80]
    folder.mkdir()
    for index, height in enumerate(sizes):
        cv2.imwrite(str(folder / f"{index}.png"), noise(index, height))
    assert _run(config, folder, "--output", tmp_path / "one", "--no-pictures") == 0
    original, batches = Predictor.predict_batch, []

    def some_fail(self, images):
        batches.append(len(images))
        if len(images) == 3:
            raise MemoryError
        return original(self, images)

    monkeypatch.setattr(Predictor, "predict_batch", some_fail)
    arguments = [folder, "--output", tmp_path / "many", "--no-pictures", "--batch-size"]
    assert _run(config, *arguments, 2) == 0
    assert batches == [2, 1, 1, 2, 1]
    assert "7 images, 35 instances" in capsys.readouterr().out
    batches.clear()
    assert (
        _run(config, *arguments, 3, "--restart") == 0
    )  # what fails as a batch is tried one by one
    assert batches == [3, 1, 1, 1, 1, 3, 1, 1, 1]
    one, many = (
        json.loads((tmp_path / name / "predictions.json").read_text())["images"]
        for name in ("one", "many")
    )
    assert [image["file"] for image in one] == [image["file"] for image in many]
    for a, b in zip(one, many):
        for left, right in zip(a["instances"], b["instances"]):
            assert left["bbox_xywh"] == pytest.approx(right["bbox_xywh"], abs=1e-2)


def test_unreadable_images_are_named_and_left_out(trained, photos, tmp_path, capsys):
    config, _ = trained
    (photos / "broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:200])
    (photos / "text.png").write_text("not a picture")
    assert _run(config, photos, "--output", tmp_path / "out", "--no-pictures") == 1
    captured = capsys.readouterr()
    assert "broken.jpg" in captured.err
    assert "text.png: is no image that Pillow can read." in captured.err
    assert "2 of 5 inputs could not be read" in captured.err
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["images"]) == 3
    assert not (tmp_path / "out" / "pictures").exists()


def test_threshold_and_class_names(trained, photos, tmp_path):
    config, _ = trained
    names = ",".join("abcdefgh")
    assert _run(config, photos / "a.png", "--output", tmp_path / "x", "--classes", names) == 0
    content = json.loads((tmp_path / "x" / "predictions.json").read_text())
    scores = [entry["score"] for entry in content["images"][0]["instances"]]
    assert content["classes"] == list("abcdefgh")
    limit = sorted(scores)[2]
    code = _run(config, photos / "a.png", "--output", tmp_path / "y", threshold=str(limit))
    assert code == 0
    content = json.loads((tmp_path / "y" / "predictions.json").read_text())
    kept = [entry["score"] for entry in content["images"][0]["instances"]]
    assert kept == [score for score in scores if score >= limit]


def test_video_in_and_out(trained, tmp_path):
    config, _ = trained
    file = tmp_path / "clip.mp4"
    write_clip(file, 5)
    out = tmp_path / "out"
    assert _run(config, file, "--output", out, "--every", 2) == 0
    content = json.loads((out / "predictions.json").read_text())
    assert [i["file"] for i in content["images"]] == ["clip.mp4#0", "clip.mp4#2", "clip.mp4#4"]
    drawn = cv2.VideoCapture(str(out / "pictures" / "clip.mp4"))
    assert int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(5)


def test_broken_video_is_named(trained, tmp_path, capsys):
    config, _ = trained
    (tmp_path / "broken.mp4").write_bytes(b"nothing of a video")
    assert _run(config, tmp_path / "broken.mp4", "--output", tmp_path / "out") == 1
    assert "broken.mp4: no frame" in capsys.readouterr().err


def test_interruption_keeps_what_was_done(trained, photos, tmp_path, capsys, monkeypatch):
    config, _ = trained
    original = Predictor.__call__
    calls = []

    def interrupted(self, image):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(Predictor, "__call__", interrupted)
    assert _run(config, photos, "--output", tmp_path / "out", "--no-pictures") == 130
    assert "interrupted; 2 images" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 2


def test_a_full_disk_ends_the_run_and_keeps_what_was_done(
    trained, photos, tmp_path, capsys, monkeypatch
):
    config, _ = trained

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert _run(config, photos, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "a.png cannot be written: No space left on device; 1 images" in error
    assert error.count("\n") == 1
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 1
    assert _run(config, photos, "--output", tmp_path / "out") == 0  # draws the first, does the rest
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 3
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 3


def test_own_pictures_are_no_input(trained, photos, tmp_path, capsys):
    config, _ = trained
    for _ in range(2):
        assert _run(config, photos, "--output", photos / "out") == 0
        assert "3 images" in capsys.readouterr().out
    assert _run(config, photos / "out", "--output", photos / "out") == 2
    assert "only pictures that an earlier run drew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jpg"], "INPUT 'nothing.jpg': no such file"),
        (["*.jpeg"], "no such file, folder or match"),
        (["--every", "0", "PHOTOS"], "--every is 0"),
        (["--batch-size", "0", "PHOTOS"], "--batch-size is 0"),
        (["--device", "gpu", "PHOTOS"], "--device 'gpu'"),
        (["--weights", "none.pth", "PHOTOS"], "there is no file 'none.pth'"),
        (["--weights", "BROKEN", "PHOTOS"], "broken.py: cannot be read as a checkpoint"),
        (["--config-file", "BROKEN", "PHOTOS"], "SyntaxError"),
        (["--classes", "a,b", "PHOTOS"], "--classes names 2 classes, but the model has 8"),
        (["--import", "no_such_module", "PHOTOS"], "no_such_module"),
        (["PHOTOS", "--opts", "MODEL.NO_KEY", "1"], "Non-existent key: MODEL.NO_KEY"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_done(
    trained, photos, tmp_path, capsys, arguments, message
):
    config, _ = trained
    broken = tmp_path / "broken.py"
    broken.write_text("x = (")
    paths = {"PHOTOS": str(photos), "BROKEN": str(broken)}
    arguments = [paths.get(a, a) for a in arguments]
    out = ["--output", tmp_path / "out"]
    assert _run(config, *out, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_unknown_config_and_config_without_weights(photos, tmp_path, capsys):
    assert _run("no/such.yaml", photos, "--output", tmp_path / "out") == 2
    assert "no config 'no/such.yaml'" in capsys.readouterr().err
    cfg = timm_cfg("resnet18", fpn=True)
    with pytest.raises(WeightsError, match="pass --weights"):
        Predictor(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.clear(), "has none of the model's"),
        (
            lambda state: [state.pop(k) for k in list(state) if "mask_head" in k],
            "which would be random: roi_heads.mask_head",
        ),
        (
            lambda state: [state.update({k: v[:4]}) for k, v in state.items() if "cls_score" in k],
            "the file has 3 classes, the config 8 (MODEL.ROI_HEADS.NUM_CLASSES)",
        ),
        (lambda state: [v.fill_(np.nan) for v in state.values() if v.is_floating_point()], "NaN"),
    ],
)
def test_weights_that_do_not_fit_predict_nothing(
    trained, photos, tmp_path, capsys, change, message
):
    config, cfg = trained
    state = torch.load(cfg.MODEL.WEIGHTS)["model"]
    change(state)
    torch.save({"model": state}, tmp_path / "other.pth")
    arguments = ["--weights", tmp_path / "other.pth", photos, "--output", tmp_path / "out"]
    assert _run(config, *arguments) == 2
    error = capsys.readouterr().err
    assert "other.pth: " in error
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "coco_results.jsonl").exists()


def test_config_of_a_data_set_that_is_not_here(trained):
    _, cfg = trained
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("somebody_elses_data",)
    predictor = Predictor(cfg, device="cpu")
    assert len(predictor(noise(5))["instances"]) == 5
    assert predictor.metadata.get("thing_classes") is None
    assert cfg.DATASETS.TRAIN == ("somebody_elses_data",)


def test_sources_keep_folders_and_stay_unique(photos, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    cv2.imwrite(str(tmp_path / "other" / "a.png"), noise(6))
    inputs = [str(photos), str(tmp_path / "other" / "a.png"), str(photos / "b.jpg")]
    names = [source.name for source in find_sources(inputs)]
    assert names == ["a.png", "b.jpg", "more/a.png", "a_2.png"]
    cv2.imwrite(str(tmp_path / "other" / "b.jpg.png"), noise(6))
    inputs = [str(photos / "b.jpg"), str(tmp_path / "other" / "b.jpg.png")]
    pictures = [source.picture_name() for source in find_sources(inputs)]
    assert pictures == ["b.jpg.png", "b.jpg_2.png"]
    globbed = find_sources([str(photos / "**" / "*.png")])
    assert [source.name for source in globbed] == ["a.png", "more/a.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither images nor videos"):
        find_sources([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="--check 'none': no such file"):
        find_sources(["none"], "--check")


def test_exif_orientation_is_followed(trained, tmp_path):
    from PIL import Image

    config, _ = trained
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(noise(7, 60, 100)).save(tmp_path / "turned.jpg", exif=exif)
    assert _run(config, tmp_path / "turned.jpg", "--output", tmp_path / "out") == 0
    (image,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert (image["height"], image["width"]) == (100, 60)


def test_load_config_takes_files_and_names(trained):
    config, cfg = trained
    assert load_config(str(config)).MODEL.WEIGHTS == cfg.MODEL.WEIGHTS
    name = "Shapes/mask_rcnn_Lite0_FPN.yaml"
    assert load_config(name).dump() == model_zoo.get_config(name).dump()
    lazy = load_config("Shapes/mask_rcnn_Lite0_FPN.py", ["train.max_iter=7"])
    assert lazy.train.max_iter == 7
    with pytest.raises(ConfigError, match=r"config.yaml: Non-existent key: MODEL.X"):
        load_config(str(config), ["MODEL.X", "1"])
