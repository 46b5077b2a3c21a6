# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Many bands from the keys to samples: loaders, augmentations, statistics, check, config, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.engine import DefaultTrainer
from PIL import Image

from mrcnn_ext.config.check_data import check_data
from mrcnn_ext.config.load import load_config
from mrcnn_ext.data import TrainingMapper, register_datasets
from mrcnn_ext.data.augmentation import augmentations_from_config
from mrcnn_ext.data.augmentation.by_band import BandInput, apply_to_image
from mrcnn_ext.data.check.__main__ import main as check
from mrcnn_ext.data.config.__main__ import main as make_config
from mrcnn_ext.data.pictures import bands_problem
from mrcnn_ext.data.show.__main__ import main as show
from mrcnn_ext.data.stats import pixel_statistics
from mrcnn_ext.data.stats.__main__ import main as stats
from mrcnn_ext.data.train_loader import test_loader_from_config, train_loader_from_config
from mrcnn_ext.engine import Trainer, TrainerMixin
from mrcnn_ext.engine.check_lazy import check_lazy
from mrcnn_ext.engine.validation_loss import build_validation_loader
from mrcnn_ext.errors import ConfigError, DataError
from tests.data.band_cases import pixels, use_bands, write, write_dataset
from tests.helpers import REPO, small_cfg

NAME = "mrcnn_ext_tests_bands"
CLAHE = ["Albumentations", {"transform": "CLAHE"}]
test_loader_from_config.__test__ = False  # it is no test


@pytest.fixture
def bands_cfg(tmp_path):
    """A function that writes a data set and gives a config for it."""

    def make(chosen=(4, 1, 0, 2, 3), kind="uint16", **options):
        json_file, images = write_dataset(tmp_path / "set", kind=kind, **options)
        cfg = small_cfg()
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
        cfg.MRCNN_EXT.DATA.DATASETS = [[NAME, json_file, images]]
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), 48
        cfg.SOLVER.IMS_PER_BATCH, cfg.OUTPUT_DIR = 2, str(tmp_path / "out")
        if chosen:
            use_bands(cfg, chosen, kind)
        register_datasets(cfg)
        return cfg

    yield make
    if NAME in DatasetCatalog:
        DatasetCatalog.pop(NAME)
        MetadataCatalog.pop(NAME)


def _samples(cfg, augmentations=(), is_train=True):
    mapper = TrainingMapper(cfg, is_train, augmentations=list(augmentations))
    return [mapper(record) for record in DatasetCatalog.get(NAME)]


# ------------------------------------------------------------------------------------------ samples


def test_values_reach_the_model_as_they_are(bands_cfg):
    cfg = bands_cfg(scale=200)
    for index, sample in enumerate(_samples(cfg)):
        file = sample["file_name"]
        stored = tifffile.imread(file)
        assert stored.max() > 255
        assert stored.dtype == np.uint16
        expected = stored[..., [4, 1, 0, 2, 3]].transpose(2, 0, 1).astype(np.float32)
        assert torch.equal(sample["image"], torch.from_numpy(expected))
        assert len(sample["instances"]) == 2, index


def test_three_bands_are_bit_for_bit_those_of_a_picture(bands_cfg, tmp_path):
    """Training and test samples of an 8-bit TIFF and npy, against Detectron2's of the same png."""
    cfg = bands_cfg((3, 0, 4), "uint8")
    cfg.INPUT.CROP.ENABLED = True
    plain = cfg.clone()
    plain.MRCNN_EXT.DATA.BANDS, plain.INPUT.FORMAT = [], "RGB"
    records = DatasetCatalog.get(NAME)
    for seed, record in enumerate(records):
        image = tifffile.imread(record["file_name"])
        other = {**record, "file_name": str(write(tmp_path / "p.png", image[..., [3, 0, 4]]))}
        third = {**record, "file_name": str(write(tmp_path / "p.npy", image))}
        for is_train in (True, False):
            mapper = TrainingMapper(cfg, is_train)
            outs = []
            for one, by in (
                (record, mapper),
                (third, mapper),
                (other, TrainingMapper(plain, is_train)),
            ):
                np.random.seed(seed)
                outs.append(by(one))
            assert all(torch.equal(outs[0]["image"], out["image"]) for out in outs[1:])
            assert outs[0].keys() == outs[2].keys()
        np.random.seed(seed)
        detectron2s = DatasetMapper(plain, False)(other)
        assert torch.equal(detectron2s["image"], outs[0]["image"])


def test_loaders_of_a_trainer(bands_cfg):
    cfg = bands_cfg()
    (batch, *_) = Trainer.build_test_loader(cfg, NAME)
    assert batch[0]["image"].shape == (5, 48, 60)
    assert "annotations" not in batch[0]
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert batch[0]["image"].shape[0] == 5
    (batch, *_) = build_validation_loader(cfg, NAME)
    assert (batch[0]["image"].shape, len(batch[0]["instances"])) == ((5, 48, 60), 2)
    assert len(next(iter(train_loader_from_config(cfg)))) == 2
    assert len(list(test_loader_from_config(cfg, NAME))) == 4


def test_a_test_loader_of_the_scripts_own_contradicts_the_key(bands_cfg):
    class Own(Trainer):
        @classmethod
        def build_test_loader(cls, cfg, dataset_name):
            return super().build_test_loader(cfg, dataset_name)

    class Stock(DefaultTrainer):
        @classmethod
        def build_test_loader(cls, cfg, dataset_name):
            return "own"

    class Mixed(TrainerMixin, Stock):
        pass

    cfg = bands_cfg()
    assert len(list(Own.build_test_loader(cfg, NAME))) == 4  # which calls ours
    with pytest.raises(ConfigError, match="Mixed has a build_test_loader of its own"):
        Mixed.build_test_loader(cfg, NAME)
    cfg.MRCNN_EXT.DATA.BANDS = []
    assert Mixed.build_test_loader(cfg, NAME) == "own"


# ------------------------------------------------------------------------------------ augmentations


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6, 13])
def test_each_band_is_transformed_as_a_grey_picture(bands, kind):
    image = pixels(bands, kind)
    height, width = image.shape[:2]
    steps = [
        T.ResizeTransform(height, width, 21, 30), T.ResizeTransform(height, width, 90, 101),
        T.RotationTransform(height, width, 20, expand=True), T.HFlipTransform(width),
        T.VFlipTransform(height), T.CropTransform(3, 4, 20, 25), T.NoOpTransform(),
        T.ExtentTransform((2, 3, 30, 35), (20, 25)),
        T.PadTransform(0, 0, 7, 5, width, height, pad_value=3.0),
        T.TransformList([T.CropTransform(3, 4, 20, 25), T.HFlipTransform(20)]),
    ]  # fmt: skip
    for step in steps:
        out = apply_to_image(step, image)
        each = [
            np.atleast_3d(apply_to_image(step, np.ascontiguousarray(image[..., i : i + 1])))
            for i in range(bands)
        ]
        assert out.dtype == image.dtype
        assert np.array_equal(out, np.concatenate(each, axis=2)), step


def test_float_is_resized_as_pictures_of_8_bits_are():
    """Antialiased: within the rounding of 8 bits of what Pillow makes of the same values."""
    image = pixels(3, high=250)
    image[::2] = 255 - image[::2]  # fine stripes, of which Detectron2's resizing takes some
    step = T.ResizeTransform(*image.shape[:2], 13, 17)
    expected = step.apply_image(image).astype(float)
    ours = apply_to_image(step, image.astype(np.float32))
    assert abs(ours - expected).max() <= 1
    assert abs(step.apply_image(image.astype(np.float32)) - expected).max() > 20


def test_a_band_input_moves_boxes_and_segmentation_as_detectron2s():
    image, boxes = pixels(3), np.array([[3.0, 4, 20, 30]])
    steps = T.AugmentationList([T.Resize((30, 70)), T.RandomFlip(1.0), T.FixedSizeCrop((50, 60))])
    outs = []
    for kind in (T.AugInput, BandInput):
        given = kind(image.copy(), boxes=boxes.copy(), sem_seg=image[..., 0].copy())
        np.random.seed(0)
        steps(given)
        outs.append(given)
    for name in ("image", "boxes", "sem_seg"):
        assert np.array_equal(*(getattr(out, name) for out in outs))


EVERY = [
    "Blur", ["Colour", {"saturation": [1, 1], "hue": [0, 0]}], "Crop", "Cutout", "HorizontalFlip",
    ["Noise", {"deviation": [0, 300]}], ["ResizeShortestEdge", {"short_edge_length": 40}], "Rotation",
    ["ScaleJitter", {"size": 64}], "VerticalFlip", "CopyPaste", "Default",
    pytest.param(
        ["Albumentations", {"transform": "Affine", "arguments": {"rotate": [-20, 20]}}],
        marks=pytest.mark.slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize("entry", EVERY, ids=str)
@pytest.mark.parametrize(("bands", "kind"), [(6, "uint16"), (6, "uint8"), (1, "float32")])
def test_every_augmentation_works_on_bands(bands_cfg, entry, bands, kind):
    if "Albumentations" in entry:
        pytest.importorskip("albumentations")
    cfg = bands_cfg(range(bands), kind, bands=bands, scale=1 if kind == "uint8" else 200)
    cfg.MODEL.PIXEL_MEAN = [float(1000 + i) for i in range(bands)]
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = [entry]
    check_data(cfg)
    mapper = TrainingMapper(cfg, True, dataset=DatasetCatalog.get(NAME))
    changed = False
    for seed, record in enumerate(DatasetCatalog.get(NAME) * 2):
        np.random.seed(seed)
        image = mapper(record)["image"]
        stored = tifffile.imread(record["file_name"]).reshape(64, 80, bands)
        assert image.shape[0] == bands
        assert image.dtype == (torch.uint8 if kind == "uint8" else torch.float32)
        assert image.float().max() > 0.3 * stored.max()  # nothing was scaled to another range
        changed |= not np.array_equal(image.numpy(), stored.transpose(2, 0, 1))
    assert changed


def test_holes_and_margins_have_the_mean_of_wide_pixels(bands_cfg):
    cfg = bands_cfg(range(5), "uint16", scale=200)
    cfg.MODEL.PIXEL_MEAN = [1.0, 2.0, 3.0, 4.0, 5.0]
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = [
        ["Cutout", {"probability": 1.0}], ["ScaleJitter", {"size": 200, "scale": [0.2, 0.2]}],
        ["CopyPaste", {"scale": None, "size": 210, "probability": 0.0}],
    ]  # fmt: skip
    hole, jitter, paste = augmentations_from_config(cfg)
    assert hole.fill == jitter.pad_value == paste.pad_value == (1, 2, 3, 4, 5)
    mapper = TrainingMapper(cfg, True, dataset=DatasetCatalog.get(NAME))
    image = mapper(DatasetCatalog.get(NAME)[0])["image"]
    assert image[:, 205, 205].tolist() == image[:, 150, 150].tolist() == [1, 2, 3, 4, 5]
    use_bands(cfg, range(5), "uint8")
    assert [getattr(s, "fill", 128) for s in augmentations_from_config(cfg)] == [128] * 3


@pytest.mark.parametrize(
    ("bands", "kind", "entry", "message"),
    [
        (5, "uint8", "Colour", r"AUGMENTATIONS: Colour changes the saturation .* there are 5; set"),
        (5, "uint8", ["Colour", {"saturation": [1, 1]}], r"Colour changes the hue .* hue to \[0, 0\]"),
        (3, "uint16", "Colour", r"Colour changes the hue of pictures with 8 bits, .* uint16"),
        (3, "uint16", "Noise", r"Noise adds noise of 0 to 15 by default.* uint16; give deviation"),
        pytest.param(3, "uint16", CLAHE, "Albumentations with CLAHE changes values of pictures with 8 "
                     "bits", marks=pytest.mark.slow),
        pytest.param(5, "uint8", CLAHE, "with CLAHE fails on 5 bands of uint8", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_training(bands, kind, entry, message):
    if "Albumentations" in entry:
        pytest.importorskip("albumentations")
    cfg = use_bands(small_cfg(), range(bands), kind)
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = ["HorizontalFlip", entry]
    state = np.random.get_state()[1].tolist()
    with pytest.raises(ConfigError, match=message):
        augmentations_from_config(cfg)
    assert np.random.get_state()[1].tolist() == state


def test_augmentations_of_detectron2_in_a_lazy_config():
    arguments = {
        "is_train": True,
        "image_format": "BGR",
        "bands": [0, 1, 2],
        "pixel_type": "uint16",
    }
    arguments["bands"] = [0, 1, 2, 3]
    with pytest.raises(
        ConfigError, match="RandomSaturation works on 3 bands only, but there are 4"
    ):
        TrainingMapper(
            augmentations=[T.RandomApply(T.RandomSaturation(0.5, 1.5), 0.5)], **arguments
        )
    with pytest.raises(ConfigError, match="the mapper's pixel_type is 'short'"):
        TrainingMapper(augmentations=[], **{**arguments, "pixel_type": "short"})


def test_grey_pictures_turn(bands_cfg, tmp_path):
    """INPUT.FORMAT "L": OpenCV drops their channel."""
    cfg = bands_cfg((), "uint8", bands=1, suffix=".png")
    cfg.INPUT.FORMAT, cfg.MRCNN_EXT.DATA.AUGMENTATIONS = "L", ["Rotation"]
    assert TrainingMapper(cfg, True)(DatasetCatalog.get(NAME)[0])["image"].shape == (1, 64, 80)


# --------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"BANDS": [0, -1]}, r"MRCNN_EXT.DATA.BANDS is \[0, -1\]; expected a list of different bands"),
        ({"BANDS": [1, 1]}, "expected a list of different bands"),
        ({"PIXEL_TYPE": "uint12", "BANDS": [0, 1, 2]}, "PIXEL_TYPE is 'uint12'; expected one of uint8"),
        ({"PIXEL_TYPE": "uint16"}, r"PIXEL_TYPE is 'uint16', but MRCNN_EXT.DATA.BANDS is \[\]"),
        ({"BANDS": [0, 1]}, r"MODEL.PIXEL_MEAN has 3 numbers, but MRCNN_EXT.DATA.BANDS has 2 bands"),
        ({"BANDS": [0, 1, 2], "RGB_BANDS": [0, 1, 4]}, r"RGB_BANDS is \[0, 1, 4\]; expected three of"),
        ({"PIXEL_STD": [1.0, 0, 1.0]}, r"MODEL.PIXEL_STD is \[1.0, 0, 1.0\]; expected numbers above 0"),
        ({"PIXEL_STD": [1.0, -2.0, 1.0]}, "expected numbers above 0"),
        ({"PIXEL_STD": [1.0, float("inf"), 1.0]}, "PIXEL_STD is .*expected a list of finite numbers"),
        ({"PIXEL_MEAN": ["a", 1.0, 1.0]}, r"PIXEL_MEAN is \['a', .*expected a list of finite numbers"),
        ({"PIXEL_MEAN": [None, 1.0, 1.0]}, "expected a list of finite numbers"),
        ({"FIRST_CONVOLUTION": "sum"}, "FIRST_CONVOLUTION is 'sum'; expected 'mean' or 'copy'"),
        ({"FIRST_CONVOLUTION": "copy", "BANDS": [0, 1, 2]}, r"is 'copy'.*RGB_BANDS is \[\]"),
        ({"BANDS": [0, 1, 2], "PIXEL_TYPE": "uint16", "VIS_PERIOD": 5}, "VIS_PERIOD is 5, but"),
        ({"BANDS": [0, 1, 2], "AUG": True}, "TEST.AUG.ENABLED is True"),
    ],
)  # fmt: skip
def test_keys_are_checked(keys, message):
    cfg = small_cfg()
    cfg.VIS_PERIOD, cfg.TEST.AUG.ENABLED = keys.pop("VIS_PERIOD", 0), keys.pop("AUG", False)
    for name, value in keys.items():
        node = cfg.MODEL if name.startswith("PIXEL_") and name != "PIXEL_TYPE" else None
        (node or cfg.MRCNN_EXT.DATA)[name] = value
    with pytest.raises(ConfigError, match=message):
        check_data(cfg)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_std": [1.0, 0.0]}, r"model.pixel_std is .*expected numbers above 0"),
        ({"pixel_mean": ["a", 1.0]}, r"model.pixel_mean is .*expected finite numbers"),
        ({"pixel_mean": [1.0] * 3}, "model.pixel_mean has 3 numbers, but dataloader.train.mapper"),
        ({"channels": 3}, "model.backbone.bottom_up.in_channels is 3, but .*expected 2"),
    ],
)  # fmt: skip
def test_a_lazy_config_is_checked_before_it_is_built(changes, message):
    cfg = LazyConfig.load(str(REPO / "configs/Shapes/mask_rcnn_Lite0_FPN.py"))
    cfg.dataloader.train.mapper.bands = [0, 1]
    cfg.model.pixel_mean, cfg.model.pixel_std = [1.0, 1.0], [1.0, 1.0]
    cfg.model.backbone.bottom_up.in_channels = changes.pop("channels", 2)
    cfg.model.update(changes)
    with pytest.raises(ConfigError, match=message):
        check_lazy(cfg)


@pytest.mark.parametrize("key", ["bands", "rgb_bands"])
@pytest.mark.parametrize("value", [5, "012"])
def test_an_argument_that_is_no_list_is_named(key, value):
    arguments = {"bands": [0, 1, 2], "augmentations": [], "image_format": "BGR", key: value}
    with pytest.raises(ConfigError, match=f"the mapper's {key} is {value!r}; expected "):
        TrainingMapper(True, **arguments)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_boxes_only_is_a_switch(value):
    with pytest.raises(ConfigError, match=f"the mapper's boxes_only is {value!r}; expected True"):
        TrainingMapper(True, augmentations=[], image_format="BGR", boxes_only=value)


def test_files_that_differ_are_told_by_both(tmp_path):
    first = write(tmp_path / "a.npy", pixels(5, "uint16"))
    for other in (pixels(3, "uint16"), pixels(96, "uint16"), pixels(5, "uint8")):
        second = write(tmp_path / "b.npy", other)
        for paths in ([first, second], [second, first]):
            with pytest.raises(
                DataError, match=r"b\.npy.*expected the same of all|a\.npy.*expected"
            ):
                pixel_statistics(paths)
    np.save(tmp_path / "c.npy", np.zeros((40, 52), [("a", "u2"), ("b", "u2")]))
    with pytest.raises(DataError, match=r"c\.npy: holds an array of .*expected numbers"):
        pixel_statistics([first, tmp_path / "c.npy"])
    (tmp_path / "d.npy").write_bytes(b"\x80\x04}.")
    with pytest.raises(DataError, match=r"d\.npy: is no npy file"):
        pixel_statistics([tmp_path / "d.npy"])
    three = write(tmp_path / "e.npy", pixels(3))
    assert "BANDS" in bands_problem(three)  # Detectron2 reads no npy at all
    assert pixel_statistics([three])["chosen"] == [0, 1, 2]


# ----------------------------------------------------------------------------------------- commands


def test_statistics_are_those_of_numpy_and_can_be_pasted(bands_cfg, tmp_path, capsys):
    cfg = bands_cfg(scale=200)
    _, json_file, images = cfg.MRCNN_EXT.DATA.DATASETS[0]
    names = [i["file_name"] for i in json.loads(Path(json_file).read_text())["images"]]
    values = np.concatenate(
        [tifffile.imread(f"{images}/{n}").reshape(-1, 5) for n in names]
    ).astype(float)
    found = pixel_statistics([f"{images}/{n}" for n in names])
    assert found["mean"] == pytest.approx(values.mean(axis=0), rel=1e-5)
    assert found["std"] == pytest.approx(values.std(axis=0), rel=1e-5)
    assert (found["chosen"], found["dtype"]) == ([0, 1, 2, 3, 4], "uint16")
    some = pixel_statistics([f"{images}/{n}" for n in names], bands=[3, 1])
    assert some["mean"] == [found["mean"][3], found["mean"][1]]
    assert stats([json_file, "--images", images, "--bands", "3,1"]) == 0
    text = capsys.readouterr().out
    start = text.index("  MODEL: {PIXEL_MEAN")
    pasted = [line[2:] for line in text[start:].splitlines()[:2]]
    (tmp_path / "c.yaml").write_text("\n".join(pasted))
    own = load_config(str(tmp_path / "c.yaml"))
    check_data(own)
    assert own.MRCNN_EXT.DATA.BANDS == [3, 1]
    assert some["mean"] == own.MODEL.PIXEL_MEAN
    with pytest.raises(SystemExit):
        stats([json_file, "--images", images, "--bands", "1,1"])
    write(tmp_path / "set" / "images" / names[2], pixels(5, "uint8"))
    with pytest.raises(DataError, match=r"has 5 bands of uint8, and .* 5 of uint16"):
        pixel_statistics([f"{images}/{n}" for n in names])


def test_a_config_for_many_bands(bands_cfg, tmp_path):
    cfg = bands_cfg(scale=200)
    _, json_file, images = cfg.MRCNN_EXT.DATA.DATASETS[0]
    ratios = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.yaml"
        arguments = ["--device", device, "--memory", "16", "--out", str(out)]
        assert make_config([json_file, "--images", images, *arguments]) == 0
        made = load_config(str(out))
        check_data(made)
        assert (made.MRCNN_EXT.DATA.BANDS, made.MRCNN_EXT.DATA.PIXEL_TYPE) == (
            [0, 1, 2, 3, 4],
            "uint16",
        )
        assert made.MODEL.BACKBONE.FREEZE_AT == 0
        ratios[device] = np.array(made.MODEL.PIXEL_STD)
    # The weights of the large base expect values that were not divided.
    assert ratios["cpu"] / ratios["cuda"] == pytest.approx(57.4, rel=0.02)


def _check(tmp_path, cfg, *arguments):
    (tmp_path / "c.yaml").write_text(cfg.dump())
    code = check(
        ["--config-file", str(tmp_path / "c.yaml"), "--json", str(tmp_path / "r.json"), *arguments]
    )
    content = json.loads((tmp_path / "r.json").read_text())["datasets"][0]["problems"]
    return code, [p for p in content if p["kind"] not in ("image-shared",)]


def test_the_check_finds_files_of_another_kind(bands_cfg, tmp_path):
    cfg = bands_cfg()
    assert _check(tmp_path, cfg) == (0, [])
    images = tmp_path / "set" / "images"
    write(images / "1.tif", pixels(4, "uint16", size=(64, 80)))
    write(images / "2.tif", pixels(5, "uint8", size=(64, 80)))
    write(images / "3.tif", pixels(6, "uint16", size=(64, 81)))
    code, problems = _check(tmp_path, cfg)
    texts = {p["image_id"]: (p["severity"], p["kind"], p["message"]) for p in problems}
    assert code == 1
    assert "has 4 bands, but MRCNN_EXT.DATA.BANDS is [4, 1, 0, 2, 3]" in texts[2][2]
    assert "has pixels of uint8, but MRCNN_EXT.DATA.PIXEL_TYPE is 'uint16'" in texts[3][2]
    assert texts[4][1] == "image-size"
    assert texts[None][:2] == ("warning", "image-bands")
    cfg.MODEL.PIXEL_MEAN = [1.0, 2.0]
    kinds = {p["kind"]: p["message"] for p in _check(tmp_path, cfg, "--no-decode")[1]}
    assert "MODEL.PIXEL_MEAN has 2 numbers" in kinds["config-bands"]


@pytest.mark.parametrize(
    ("bands", "suffix", "severity", "words"),
    [
        (
            1,
            ".png",
            "error",
            "16-bit grey values, which Detectron2 cuts off at 255: name its bands",
        ),
        (3, ".png", "warning", "has 3 bands of uint16, which Detectron2 reduces to 8 bits"),
        (5, ".tif", "error", "has 5 bands of uint16, which Detectron2 does not read as they are"),
        (2, ".npy", "error", "has 2 bands of uint16, which Detectron2 does not read as they are"),
    ],
)
def test_without_the_key_the_check_says_that_it_is_needed(
    bands_cfg, tmp_path, bands, suffix, severity, words
):
    cfg = bands_cfg((), bands=5)
    content = json.loads((tmp_path / "set" / "data.json").read_text())
    file = tmp_path / "set" / "images" / f"x{suffix}"
    image = pixels(bands, "uint16", high=60000, size=(64, 80))
    if suffix == ".png" and bands == 3:
        cv2.imwrite(str(file), image)
    else:
        write(file, image)
    content["images"] = [{**content["images"][0], "file_name": file.name}]
    content["annotations"] = content["annotations"][:2]
    (tmp_path / "set" / "data.json").write_text(json.dumps(content))
    problems = _check(tmp_path, cfg)[1]
    (found,) = (p for p in problems if p["kind"] == "image-content")
    assert (found["severity"], words in found["message"]) == (severity, True), found


def test_the_contact_sheet_shows_three_bands(bands_cfg, tmp_path):
    cfg = bands_cfg(scale=200)
    cfg.MRCNN_EXT.DATA.RGB_BANDS = [2, 1, 4]
    (tmp_path / "c.yaml").write_text(cfg.dump())
    out = tmp_path / "s.png"
    assert show([str(tmp_path / "c.yaml"), "--number", "2", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert np.asarray(picture).std() > 30
