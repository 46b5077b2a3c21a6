# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Augmented masks, boxes and keypoints against the augmented picture of the mask."""

from __future__ import annotations

import importlib.util
import random

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path

from mrcnn_ext.data import TrainingMapper
from mrcnn_ext.data.augmentation import Sample, build_augmentations
from mrcnn_ext.data.augmentation.polygons import clip_polygon, polygon_area
from mrcnn_ext.errors import ConfigError, DataError
from tests.data.augmentation_cases import FLIP_INDICES, LEVEL, dense, near, record

HAS_ALBUMENTATIONS = importlib.util.find_spec("albumentations") is not None
needs_albumentations = pytest.mark.skipif(
    not HAS_ALBUMENTATIONS, reason="albumentations is not installed"
)
ONE = {"probability": 1.0}
GEOMETRY = {
    "shortest edge": ["ResizeShortestEdge", {"short_edge_length": [110, 190]}],
    "scale jitter": ["ScaleJitter", {"size": [160, 190], "scale": [0.4, 2.0]}],
    "crop": ["Crop", {"share": [0.3, 0.9]}],
    "crop all": ["Crop", {"share": [0.3, 0.9], "keep": "all"}],
    "crop any": ["Crop", {"share": [0.2, 0.9], "keep": "none"}],
    "horizontal flip": ["HorizontalFlip", {}],
    "vertical flip": ["VerticalFlip", ONE],
    "rotation": ["Rotation", {"angle": [-180, 180]}],
    "larger rotation": ["Rotation", {"angle": [-90, 90], "expand": True}],
}
LOOKS = {
    "colour": ["Colour", {"brightness": [0.97, 1.1], "contrast": [0.97, 1.1]}],
    "blur": ["Blur", {"sigma": [0.1, 1.5], **ONE}],
    "noise": ["Noise", {"deviation": [0, 12], **ONE}],
}
CUTOUT = ["Cutout", {"holes": [1, 6], "size": [0.1, 0.4], **ONE}]
MOVING = {
    "Affine": {"rotate": [-60, 60], "scale": [0.7, 1.3], "shear": [-10, 10], "p": 1},
    "D4": {"p": 1},
    "ElasticTransform": {"alpha": 60, "sigma": 8, "p": 1},
    "RandomResizedCrop": {"size": [120, 140], "scale": [0.5, 1], "p": 1},
    "SafeRotate": {"limit": [-180, 180], "p": 1},
}


def mapper(entries, mask_format="polygon", **kwargs) -> TrainingMapper:
    return TrainingMapper(
        True,
        augmentations=build_augmentations(entries),
        image_format="BGR",
        use_instance_mask=True,
        use_keypoint=True,
        instance_mask_format=mask_format,
        keypoint_hflip_indices=FLIP_INDICES,
        **kwargs,
    )


def seeded(mapped, entry, seed: int):
    random.seed(seed)
    np.random.seed(seed)
    return mapped(entry)


def check(out: dict, tolerance: int = 2) -> None:
    """Masks are what the picture shows, boxes are theirs, keypoints lie where they should."""
    shown = out["image"].numpy().transpose(1, 2, 0).mean(axis=2) > LEVEL
    instances = out["instances"]
    masks = dense(instances) if len(instances) else np.zeros((0, *shown.shape), bool)
    assert near(shown, masks.any(axis=0), tolerance)
    for number, (mask, box) in enumerate(zip(masks, instances.gt_boxes.tensor.numpy())):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):  # a sliver of a polygon between the middles of pixels
            assert instances.gt_masks.area()[number] < 10
            continue
        if mask.sum() < 40:  # pixels of a sliver are a bad measure of its box
            continue
        tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        if mask.sum() >= 40:  # pixels of a sliver are a bad measure of its box
            assert np.abs(box - tight).max() <= 2.5
    if not len(instances):
        return
    height, width = shown.shape
    for mask, points in zip(masks, instances.gt_keypoints.tensor.numpy()):
        for x, y, v in points:
            if v == 0:
                assert (x, y) == (0, 0)
                continue
            assert 0 <= x <= width
            assert 0 <= y <= height
            if v == 2 and mask.any() and 3 < x < width - 3 and 3 < y < height - 3:
                # All keypoints are well inside their object.
                assert mask[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].any()


def pairs(names):
    return [
        (name, form, mask_format)
        for name in names
        for form, mask_format in (
            ("polygon", "polygon"),
            ("polygon", "bitmask"),
            ("rle", "bitmask"),
        )
    ]


@pytest.mark.parametrize(("name", "form", "mask_format"), pairs([*GEOMETRY, *LOOKS]))
def test_the_picture_shows_the_masks(tmp_path, name, form, mask_format):
    mapped = mapper([{**GEOMETRY, **LOOKS}[name]], mask_format)

    @settings(max_examples=5, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 2**31), st.integers(0, 2), st.sampled_from([(150, 200), (160, 120)]))
    def run(seed, which, size):
        check(seeded(mapped, record(tmp_path, form, which, size), seed))

    run()


@pytest.mark.slow
def test_chains_of_augmentations_agree_with_the_picture(tmp_path):
    """Colours are left out: several of them may make an object darker than the check's threshold."""
    rng = random.Random(0)
    forms = [("polygon", "polygon"), ("polygon", "bitmask"), ("rle", "bitmask")]
    for _ in range(300):
        names = rng.choices(list(GEOMETRY), k=rng.randint(2, 4))
        form, mask_format = rng.choice(forms)
        seed = rng.randint(0, 5)
        # Without slivers, which the picture may not show
        mapped = mapper([GEOMETRY[name] for name in names], mask_format, min_area_left=60)
        out = seeded(mapped, record(tmp_path, form), seed)
        # What a crop leaves may be enlarged sixfold, and an edge pixel with it.
        enlarged = 4 * sum(name in ("shortest edge", "scale jitter") for name in names)
        check(out, tolerance=2 + len(names) + enlarged)


@pytest.mark.parametrize("form", ["polygon", "rle"])
def test_holes_cut_masks_and_hide_keypoints(tmp_path, form):
    mapped = mapper([CUTOUT], "bitmask")
    hidden = 0
    for seed in range(12):
        out = seeded(mapped, record(tmp_path, form), seed)
        check(out)
        grey = (out["image"].numpy() == 128).all(axis=0)
        for points in out["instances"].gt_keypoints.tensor.numpy():
            for x, y, v in points:
                assert v == (1 if grey[int(y), int(x)] else 2)
                hidden += v == 1
    assert hidden


def test_holes_may_leave_masks_whole(tmp_path):
    kept = ["Cutout", {"cut_masks": False, "size": [0.3, 0.5], **ONE}]
    entry = record(tmp_path, "polygon")
    out, before = (seeded(mapper(entries), entry, 3) for entries in ([kept], []))
    assert (dense(out["instances"]) == dense(before["instances"])).all()
    assert torch.equal(out["instances"].gt_boxes.tensor, before["instances"].gt_boxes.tensor)
    assert not torch.equal(out["image"], before["image"])


@pytest.mark.slow
@needs_albumentations
@pytest.mark.parametrize("name", sorted(MOVING))
@pytest.mark.parametrize("form", ["polygon", "rle"])
def test_albumentations_moves_masks_boxes_and_keypoints(tmp_path, name, form):
    entry = ["Albumentations", {"transform": name, "arguments": MOVING[name]}]
    mapped = mapper([entry], "bitmask")
    for seed in range(4):
        check(seeded(mapped, record(tmp_path, form), seed), tolerance=3)


@needs_albumentations
def test_albumentations_changes_colours(tmp_path):
    arguments = {"std_range": [0.02, 0.04]}
    noise = {"transform": "GaussNoise", "arguments": arguments, **ONE}
    mapped = mapper([["Albumentations", noise]])  # polygons stay polygons
    entry = record(tmp_path, "polygon")
    first, same, other = (seeded(mapped, entry, seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    check(seeded(mapped, entry, 1))


@pytest.mark.parametrize(
    ("entry", "mirrored"),
    [
        (["HorizontalFlip", ONE], True),
        (["VerticalFlip", ONE], True),
        (["Rotation", {"angle": [5, 5]}], False),
        pytest.param(
            ["Albumentations", {"transform": "HorizontalFlip", **ONE}], True,
            marks=needs_albumentations,
        ),
        pytest.param(
            ["Albumentations", {"transform": "Transpose", **ONE}], True, marks=needs_albumentations
        ),
    ],
)  # fmt: skip
def test_left_and_right_change_places_in_a_mirror(tmp_path, entry, mirrored):
    given = record(tmp_path, "rle")
    out = seeded(mapper([entry], "bitmask"), given, 0)["instances"].gt_keypoints.tensor.numpy()
    # The corners of the picture say where each point of the plane goes.
    sample = Sample(np.zeros((150, 200, 3), np.uint8))
    np.random.seed(0)
    (augmentation,) = build_augmentations([entry])
    sample.augment(augmentation)
    for annotation, points in zip(given["annotations"], out):
        before = np.array(annotation["keypoints"]).reshape(-1, 3)[:, :2]
        moved = before.copy()
        for transform in sample.transforms:
            moved = transform.apply_coords(moved)
        expected = moved[FLIP_INDICES] if mirrored else moved
        assert np.allclose(points[:, :2], expected, atol=1e-3)


def test_two_skeletons_swap_within_each(tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mrcnn_ext.data.shapes import configure_builtin_shapes
    from mrcnn_ext.skeletons import SkeletonSet

    configure_builtin_shapes(num_train=12, num_val=2, image_size=96, seed=0)
    name = "mrcnn_ext_shapes_pose_train"
    if name not in DatasetCatalog:
        pytest.skip("the pose set is not registered")
    records = DatasetCatalog.get(name)
    skeletons = SkeletonSet.from_metadata(MetadataCatalog.get(name))
    names = list(skeletons.keypoint_names)
    mapped = TrainingMapper(
        True,
        augmentations=build_augmentations([["HorizontalFlip", ONE]]),
        image_format="BGR",
        use_instance_mask=True,
        use_keypoint=True,
        instance_mask_format="bitmask",
        keypoint_hflip_indices=skeletons.flip_indices,
    )
    seen = set()
    for entry in records:
        out = mapped(entry)["instances"].gt_keypoints.tensor.numpy()
        objects = [a for a in entry["annotations"] if not a.get("iscrowd")]
        for annotation, points in zip(objects, out):
            before = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
            for left, right in skeletons.flip_map:
                a, b = names.index(left), names.index(right)
                if before[b, 2]:
                    seen.add(left)
                    assert points[a, 2] == before[b, 2]
                    assert np.isclose(points[a, 0], entry["width"] - before[b, 0], atol=1e-3)
                    assert np.isclose(points[a, 1], before[b, 1], atol=1e-3)
    assert len({name.split("/")[0] for name in seen}) == 2


def test_small_rests_are_dropped_by_the_stated_rule(tmp_path):
    entry = record(tmp_path, "polygon")
    crop = [["Crop", {"share": [0.25, 0.5], "keep": "none"}]]
    for seed in range(20):
        every, large = (seeded(mapper(crop, min_area_left=n), entry, seed) for n in (0, 400))
        areas = every["instances"].gt_masks.area().numpy()
        kept = large["instances"].gt_classes.tolist()
        assert kept == every["instances"].gt_classes[torch.as_tensor(areas >= 400)].tolist()


def test_crops_keep_objects(tmp_path):
    entry = record(tmp_path, "polygon")
    for seed in range(20):
        one = seeded(mapper([["Crop", {"share": [0.3, 0.5]}]]), entry, seed)
        assert len(one["instances"])
        every = seeded(mapper([["Crop", {"share": [0.3, 0.5], "keep": "all"}]]), entry, seed)
        areas = every["instances"].gt_masks.area().numpy()
        whole = [
            polygon_area(np.array(a["segmentation"]).reshape(-1, 2)) for a in entry["annotations"]
        ]
        assert np.allclose(areas, whole)


def test_objects_without_a_mask_keep_a_box(tmp_path):
    entry = record(tmp_path, "")
    out = seeded(mapper([["HorizontalFlip", ONE], ["ScaleJitter", {"size": 300}]]), entry, 1)
    assert not out["instances"].has("gt_masks")
    assert len(out["instances"].gt_boxes) == 2
    mixed = record(tmp_path, "polygon")
    del mixed["annotations"][0]["segmentation"]
    with pytest.raises(DataError, match="1 of its 2 objects have no segmentation"):
        seeded(mapper([]), mixed, 0)


def test_crowds_are_left_out_and_pictures_may_be_empty(tmp_path):
    entry = record(tmp_path, "rle")
    entry["annotations"][0]["iscrowd"] = 1
    every = [*GEOMETRY.values(), *LOOKS.values(), CUTOUT]
    assert len(seeded(mapper([], "bitmask"), entry, 0)["instances"]) == 1
    entry["annotations"] = []
    assert len(seeded(mapper(every, "bitmask"), entry, 0)["instances"]) == 0


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(0, 2**31))
def test_clipped_polygons_have_the_area_that_is_inside(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-40, 140, size=(int(rng.integers(3, 9)), 2))
    # A fan of triangles around a point is a star: it does not cut itself.
    angles = np.argsort(np.arctan2(*(points - points.mean(axis=0)).T))
    points = points[angles]
    clipped = clip_polygon(points, 60, 80)
    # A tenth of a pixel: along an edge of 100 pixels a grid of half pixels errs by up to 25.
    x, y = np.meshgrid(np.arange(0.05, 80, 0.1), np.arange(0.05, 60, 0.1))
    inside = Path(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).sum() / 100
    area = polygon_area(clipped) if len(clipped) else 0.0
    assert area == pytest.approx(inside, abs=8)
    if len(clipped):
        assert (clipped >= 0).all()
        assert (clipped <= (80, 60)).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "VertFlip",
            r"\[0\] is 'VertFlip'; similar: Vert.*there are: Albumentations, Blur",
        ),
        (["Crop"], r"AUGMENTATIONS\[0\] is \['Crop'\]; expected a name, or \[name, "),
        (3, r"AUGMENTATIONS\[0\] is 3; expected a name"),
        (
            ["Blur", {"sigmas": 1}],
            r"\[0\] \(Blur\) has no argument 'sigmas'; similar: sigma; ",
        ),
        (["Blur", {"sigma": 1}], r"\(Blur\): sigma is 1; expected \[least, greatest\]"),
        (["Blur", {"sigma": [2, 1]}], r"\(Blur\): sigma is \[2, 1\]; expected \[least, greatest\]"),
        (["HorizontalFlip", {"probability": 2}], "probability is 2; expected a number from 0 to 1"),
        (["Rotation", {"angle": [0, 200]}], r"angle is \[0, 200\]; .* from -180 to 180"),
        (["Crop", {"keep": "some"}], "keep is 'some'; expected 'one' or 'all' or 'none'"),
        ("ScaleJitter", r"\(ScaleJitter\): missing a required.* argument: 'size'"),
        (["ScaleJitter", {"size": 0}], "size is 0; expected a side in pixels"),
        (["ScaleJitter", {"size": 10**9}], "size is 1000000000; .* up to 32767"),
        (["CopyPaste", {"size": 1e300}], r"size is 1e\+300; .* up to 32767"),
        (["ResizeShortestEdge", {"short_edge_length": 10**9}], "whole number from 1 to 32767"),
        (["CopyPaste", {"max_instances": 0}], "max_instances is 0; expected a whole number, 1 or"),
        (["Default", {"a": 1}], "'Default' takes no arguments"),
        (["Cutout", {"cut_masks": 1}], "cut_masks is 1; expected true or false"),
        (["ResizeShortestEdge", {"short_edge_length": []}], "expected one length or more"),
    ],
)
def test_mistakes_name_the_entry(entry, message):
    with pytest.raises(ConfigError, match=message):
        build_augmentations([entry])


@needs_albumentations
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transform": "CLAH"}, "transform is 'CLAH'; expected a class .* similar: CLAHE"),
        ({"transform": "Compose"}, "expected a class of albumentations"),
        ({"transform": "Blur", "arguments": {"p": 7}}, r"\[0\] \(Albumentations\): "),
        ({"transform": "Blur", "arguments": {"limit": 7}}, "Blur has no argument 'limit'; similar"),
        ({"transform": "MaskDropout"}, "which needs mask besides the picture"),
        ({"transform": "BBoxSafeRandomCrop"}, "which needs boxes besides the picture"),
        ({"transform": "Blur", "arguments": "p"}, "arguments is 'p'; expected .argument: value."),
    ],
)
def test_mistakes_with_albumentations(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_augmentations([["Albumentations", arguments]])


def test_without_albumentations_the_error_says_what_to_install(monkeypatch):
    import mrcnn_ext.data.augmentation.albumentations_transform as module

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package albumentations: pip install"):
        build_augmentations([["Albumentations", {"transform": "CLAHE"}]])


@needs_albumentations
def test_another_albumentations_is_refused(monkeypatch):
    import albumentations

    import mrcnn_ext.data.augmentation.albumentations_transform as module

    with monkeypatch.context() as patch:
        owners = {"albumentations": ["AlbumentationsX"]}
        patch.setattr(module.importlib.metadata, "packages_distributions", lambda: owners)
        with pytest.raises(ConfigError, match="AGPL"):
            module.import_albumentations()
    monkeypatch.setattr(albumentations, "__version__", "1.4.3")
    with pytest.raises(ConfigError, match=r"has the version 1\.4\.3; expected 2\.0"):
        module.import_albumentations()


def test_pixels_of_masks_are_asked_for():
    for name in ("CopyPaste", "Cutout"):
        with pytest.raises(ConfigError, match="expected 'bitmask'"):
            mapper([name])


def test_an_error_names_the_picture(tmp_path):
    entry = record(tmp_path, "polygon")
    grey = TrainingMapper(
        True, augmentations=build_augmentations(["Colour"]), image_format="L",
        use_instance_mask=True,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"image .*0_150_200\.png: Colour: .*3 channels"):
        seeded(grey, entry, 0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (["Cutout", {"fill": 256}], "Cutout: fill is 256, but pixels of this picture end at 255"),
        (["ScaleJitter", {"size": 64, "pad_value": 256}], "pad_value is 256, but pixels"),
        pytest.param(
            ["Albumentations", {"transform": "Normalize"}],
            "Normalize makes float32 .* of uint8 .*; expected values and channels of the same kind",
            marks=needs_albumentations,
        ),
        pytest.param(
            [
                "Albumentations",
                {"transform": "RandomCrop", "arguments": {"height": 999, "width": 9}},
            ],
            "RandomCrop cannot work on this picture of 200 x 150 pixels: CropSizeError",
            marks=needs_albumentations,
        ),
    ],
)
def test_what_a_picture_cannot_bear_is_one_error(tmp_path, entry, message):
    entry_record = record(tmp_path, "polygon")
    with pytest.raises(DataError, match=rf"image .*\.png: .*{message}"):
        seeded(mapper([entry], "bitmask"), entry_record, 0)


def test_detectron2s_augmentations_can_be_mixed_in(tmp_path):
    mapped = TrainingMapper(
        True,
        augmentations=[T.RandomFlip(1.0), T.HFlipTransform(200), T.RandomBrightness(0.9, 1.1)],
        image_format="BGR",
        use_instance_mask=True,
    )
    entry = record(tmp_path, "polygon")
    out = seeded(mapped, entry, 0)["instances"].gt_masks.polygons
    assert np.allclose(out[0][0], entry["annotations"][0]["segmentation"][0])
