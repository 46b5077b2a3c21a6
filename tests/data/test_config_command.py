# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mrcnn_ext.coco.rle import encode_mask, text_rle
from mrcnn_ext.config.load import load_config
from mrcnn_ext.data.config import Machine, choose, config_text
from mrcnn_ext.data.config.__main__ import main
from mrcnn_ext.data.stats import Measured, measure
from mrcnn_ext.errors import DataError

CPU = Machine("cpu", 16, 1, "2 cores here")
GPU = Machine("cuda", 24, 4, "8 cores here")


def _content(images: int = 10, *, side: int = 300, size: float = 60, each: int = 2, **more) -> dict:
    """Square images; objects of one size, apart from each other; a mask of polygons each."""
    x = [10 + (k * size * 1.2) % (side - size - 10) for k in range(each)]
    entries = [
        {
            "image_id": i,
            "category_id": 1 + k % 2,
            "bbox": [x[k], 10, size, size],
            "segmentation": [[x[k], 10, x[k] + size, 10, x[k] + size, 10 + size, x[k], 10 + size]],
            **more,
        }
        for i in range(images)
        for k in range(each)
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": side, "width": side} for i in range(images)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": n, **entry} for n, entry in enumerate(entries, 1)],
    }


def _measured(*args, **kwargs) -> Measured:
    return measure(_content(*args, **kwargs), "here")


def _values(found: Measured, machine: Machine = CPU, **options) -> dict:
    return {choice.key: choice.value for choice in choose(found, machine, **options)[1]}


def test_every_choice_is_a_key_and_has_its_reason(tmp_path):
    """Of both bases, with keypoints, many objects, empty images and RLE."""
    content = _content(each=160, size=3)
    content["images"] += [{"id": 99, "file_name": "e.png", "height": 300, "width": 300}]
    rle = text_rle(encode_mask(np.eye(300, dtype=bool)))
    content["annotations"][0] |= {"segmentation": rle, "keypoints": [1, 1, 2]}
    found = measure(content, "here")
    for machine in (CPU, GPU):
        base, choices, _ = choose(found, machine, keypoints=1)
        text = config_text(f"Base/{base}", choices, ["About it."])
        assert text.startswith("# About it.\n_BASE_:")
        cfg = load_config(base)
        for choice in choices:
            cfg.merge_from_list([choice.key, choice.value])
        explained = {choice.key.rpartition(".")[0] for choice in choices if choice.why}
        sections = {choice.key.rpartition(".")[0] for choice in choices}
        assert sections - explained <= {"MRCNN_EXT.KEYPOINT_HEAD"}
        assert all(choice.why.endswith(".") for choice in choices if choice.why)


def test_classes_masks_and_keypoints():
    values = _values(_measured())
    assert values["MODEL.ROI_HEADS.NUM_CLASSES"] == 2
    assert (values["MODEL.MASK_ON"], values["INPUT.MASK_FORMAT"]) == (True, "polygon")
    assert "MODEL.KEYPOINT_ON" not in values
    assert values["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"] is True
    assert "DATALOADER.FILTER_EMPTY_ANNOTATIONS" not in values
    assert "TEST.DETECTIONS_PER_IMAGE" not in values
    values = _values(_measured(), GPU, keypoints=17)
    assert values["MODEL.ROI_MASK_HEAD.NAME"] == "MrcnnExtRefineMaskHead"
    assert values["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] == 17
    assert _values(_measured(segmentation=None))["MODEL.MASK_ON"] is False


def test_some_boxes_without_masks():
    content = _content()
    del content["annotations"][3]["segmentation"]
    found = measure(content, "here")
    assert _values(found)["MRCNN_EXT.DATA.BOXES_ONLY"] is True


def test_small_and_many_objects():
    values = _values(_measured(side=300, size=12, each=150))
    assert values["INPUT.MIN_SIZE_TEST"] == 384  # enlarged, as far as a CPU bears
    assert values["TEST.DETECTIONS_PER_IMAGE"] == 200
    assert values["MODEL.RPN.POST_NMS_TOPK_TEST"] == 400
    assert values["MODEL.ANCHOR_GENERATOR.SIZES"][0][0] < 32
    large = _values(_measured(side=3000, size=400), GPU)
    assert large["INPUT.MIN_SIZE_TEST"] == 1024


def test_learning_rate_goes_with_the_batch_and_the_batch_with_memory():
    found = _measured(200, side=900)
    rates = {}
    for memory in (6, 12, 24, 48, 80):
        values = _values(found, Machine("cuda", memory, 1, ""))
        batch, parts = values["SOLVER.IMS_PER_BATCH"], values.get("MRCNN_EXT.SOLVER.ACCUMULATE", 1)
        rates[batch // parts] = values["SOLVER.BASE_LR"]
        assert values["SOLVER.BASE_LR"] == pytest.approx(0.02 * batch / 16)
        assert values["SOLVER.MAX_ITER"] * batch >= 48_000
    assert list(rates) == sorted(rates)
    assert len(rates) > 2
    with pytest.raises(DataError, match=r"2\.0 GiB of GPU memory are too few"):
        choose(found, Machine("cuda", 2, 1, ""))


def test_empty_images_and_overlaps():
    content = _content()
    content["images"] += [{**content["images"][0], "id": 50, "file_name": "e.png"}]
    twin = dict(content["annotations"][0], id=77)
    content["annotations"].append(twin)
    values = _values(measure(content, "here"))
    assert values["DATALOADER.FILTER_EMPTY_ANNOTATIONS"] is False
    assert values["MODEL.ROI_HEADS.NMS_THRESH_TEST"] == 0.6
    content["annotations"] = content["annotations"][:2]
    assert _values(measure(content, "here"))["DATALOADER.FILTER_EMPTY_ANNOTATIONS"] is True
    content["annotations"] = []
    with pytest.raises(DataError, match="no object to train on"):
        choose(measure(content, "here"), CPU)


# ---------------------------------------------------------------------------------------- command


def _files(tmp_path, name: str = "train"):
    (tmp_path / name).mkdir()
    content = _content(4)
    for image in content["images"]:
        Image.new("RGB", (300, 300)).save(tmp_path / name / image["file_name"])
    file = tmp_path / name / "my own.json"
    file.write_text(json.dumps(content))
    return file


def test_command(tmp_path, capsys):
    train, test = _files(tmp_path), _files(tmp_path, "val")
    out = tmp_path / "config.yaml"
    command = [str(train), "--images", str(train.parent), "--out", str(out), "--device", "cpu"]
    assert main([*command, "--test", str(test), "--test-images", str(test.parent)]) == 0
    cfg = load_config(out)
    assert [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST] == ["my_own", "my_own_test"]
    assert cfg.MRCNN_EXT.DATA.DATASETS[1] == ["my_own_test", str(test), str(test.parent)]
    assert cfg.MODEL.BACKBONE.NAME == "build_timm_fpn_backbone"
    text = capsys.readouterr().out
    assert "8 objects are few" in text
    assert f"then: python -m mrcnn_ext.train --config-file {out}" in text
    assert main(command) == 0  # without a test set
    said = capsys.readouterr().out
    assert "no set to evaluate on" in said
    assert f"the config that was there is now {out}.old" in said
    assert "my_own_test" in (tmp_path / "config.yaml.old").read_text()
    out.write_text("# mine\n")
    assert main(command) == 2
    assert "is there already, and no config of this command" in capsys.readouterr().err
    assert out.read_text() == "# mine\n"


@pytest.mark.parametrize("memory", ["nan", "inf", "1e300", "0"])
def test_memory_that_no_machine_has(capsys, memory):
    with pytest.raises(SystemExit):
        main(["data.json", "--images", ".", "--memory", memory, "--device", "cuda"])
    assert "expected a positive number of GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody_has_this"], "no data set 'nobody_has_this' is registered"),
        (["{json}"], "name the folder of its images with --images"),
        (["{json}", "--images", "/nowhere"], "there is no folder of images /nowhere"),
        (["{json}", "--images", "{root}", "--memory", "1"], "training takes 3"),
        (["/nowhere.yaml"], "there is no file '/nowhere.yaml'"),
    ],
)
def test_command_with_bad_arguments(tmp_path, capsys, arguments, message):
    train = _files(tmp_path)
    names = {"json": train, "root": train.parent}
    out = tmp_path / "config.yaml"
    command = [a.format(**names) for a in arguments]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_from_own_files_to_a_trained_model(tmp_path, monkeypatch):
    """labelme files, converted, divided, with a config, and two steps of training."""
    from mrcnn_ext import train
    from mrcnn_ext.data.convert.__main__ import main as convert
    from mrcnn_ext.data.split.__main__ import main as split

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(8):
        picture = rng.integers(0, 99, (96, 128, 3), dtype=np.uint8)
        picture[20:60, 30:80] += 120
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "labels" / f"{index}.png")
        points = [[30, 20], [80, 20], [80, 60], [30, 60]]
        shape = {"label": "slab", "points": points, "shape_type": "polygon", "group_id": None}
        content = {"shapes": [shape] if index else [], "imagePath": f"{index}.png", "flags": {}}
        content |= {"imageHeight": 96, "imageWidth": 128}
        (tmp_path / "labels" / f"{index}.json").write_text(json.dumps(content))
    assert convert(["labelme", "labels", "--out", "data.json"]) == 0
    assert split(["data.json", "--images", "labels"]) == 0
    assert main(["data_split/split.yaml", "--device", "cpu", "--output-dir", "out"]) == 0
    overrides = ["MODEL.WEIGHTS", "", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
    overrides += ["DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0"]
    assert train.main(["--config-file", "config.yaml", *overrides]) == 0
    assert (tmp_path / "out" / "model_final.pth").is_file()
