# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    create_keypoint_hflip_indices,
    transform_instance_annotations,
)
from detectron2.evaluation import COCOEvaluator
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as MplPath
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from mrcnn_ext.data import shapes
from mrcnn_ext.data.shapes import ShapesSpec, generate_shapes, load_shapes, register_shapes
from mrcnn_ext.data.shapes.figure import figure
from mrcnn_ext.data.shapes.outlines import DISTRACTORS, SHAPES, random_outline
from mrcnn_ext.data.shapes.raster import Outline, coverage
from mrcnn_ext.data.shapes.scene import (
    MIN_VISIBLE_FRACTION,
    MIN_VISIBLE_PIXELS,
    render_scene,
)
from mrcnn_ext.errors import ConfigError, DataError


def _angles(number):
    return np.linspace(0, 2 * np.pi, number, endpoint=False)


def _circle(radius, center=(0.0, 0.0), number=400):
    angles = _angles(number)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius + center


# ------------------------------------------------------------------------------------- rasteriser


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    corners=st.integers(3, 12),
    samples=st.sampled_from([1, 2, 3, 4, 8]),
)
def test_coverage_equals_point_in_polygon_at_every_sample(seed, corners, samples):
    rng = np.random.default_rng(seed)
    # Star-shaped about (5, 4), hence without self-intersections; partly outside the window.
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(1, 7, (corners, 1)) + (5, 4)
    window = (-1, 1, 9, 10)
    offsets = (np.arange(samples) + 0.5) / samples
    x = (np.arange(window[0], window[2])[:, None] + offsets).ravel()
    y = (np.arange(window[1], window[3])[:, None] + offsets).ravel()
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    inside = MplPath(ring).contains_points(points).reshape(len(y), len(x))
    expected = inside.reshape(9, samples, 10, samples).mean(axis=(1, 3))
    actual = coverage(Outline.from_rings(ring), window, samples)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_coverage_has_the_area_of_a_ring_with_a_hole_and_of_a_union():
    outer, inner = _circle(20), _circle(9, (3, 1))
    hole = coverage(Outline.from_rings(outer, inner), (-21, -21, 21, 21), 8)
    assert hole.sum() == pytest.approx(np.pi * (20**2 - 9**2), rel=2e-3)
    assert hole[21 + 1, 21 + 3] == 0
    # As parts of their own they are united, not cut out of one another.
    union = coverage(Outline(((outer,), (inner,))), (-21, -21, 21, 21), 8)
    assert union.sum() == pytest.approx(np.pi * 20**2, rel=2e-3)


def test_coverage_of_a_box_is_exact():
    box = np.array([[1.25, 2.5], [4.0, 2.5], [4.0, 5.75], [1.25, 5.75]])
    expected = np.zeros((7, 6))
    expected[2:6, 1:4] = np.outer([0.5, 1, 1, 0.75], [0.75, 1, 1])
    np.testing.assert_allclose(coverage(Outline.from_rings(box), (0, 0, 6, 7), 4), expected)


# ---------------------------------------------------------------------------------------- outlines


@pytest.mark.parametrize("make", [*SHAPES.values(), *DISTRACTORS])
def test_outlines_are_normalised_and_finite(make):
    for seed in range(50):
        outline = random_outline(make, np.random.default_rng(seed))
        x0, y0, x1, y1 = outline.bounds()
        assert max(x1 - x0, y1 - y0) == pytest.approx(1)
        assert x0 + x1 == pytest.approx(0, abs=1e-9)
        assert y0 + y1 == pytest.approx(0, abs=1e-9)


def test_figure_keypoints_lie_on_the_figure_and_left_is_right_in_the_picture():
    names = shapes.SHAPES_KEYPOINT_NAMES
    for seed in range(60):
        outline = figure(np.random.default_rng(seed))
        assert outline.keypoints.shape == (len(names), 2)
        for x, y in outline.keypoints:
            assert any(MplPath(part[0]).contains_point((x, y)) for part in outline.parts)
        points = dict(zip(names, outline.keypoints))
        assert points["left_elbow"][0] > points["right_elbow"][0]
        assert points["left_knee"][0] > points["right_knee"][0]
        assert points["crown"][1] < points["neck"][1] < points["waist"][1]


def test_mirrored_figure_is_a_figure_with_left_and_right_exchanged():
    names = list(shapes.SHAPES_KEYPOINT_NAMES)
    flip = dict(shapes.SHAPES_KEYPOINT_FLIP_MAP)
    flip.update({b: a for a, b in flip.items()})
    order = [names.index(flip.get(name, name)) for name in names]
    points = figure(np.random.default_rng(3)).keypoints
    mirrored = (points * (-1, 1))[order]
    by_name = dict(zip(names, mirrored))
    assert by_name["left_elbow"][0] > by_name["right_elbow"][0]
    assert sorted(order) == list(range(len(names)))


# ------------------------------------------------------------------------------------------ scenes


@pytest.mark.parametrize("seed", range(12))
def test_scene_truth_is_consistent(seed):
    scene = render_scene(np.random.default_rng(seed), 120, 150)
    assert scene.image.shape == (120, 150, 3)
    assert scene.image.dtype == np.uint8
    assert len(scene.categories) == len(scene.masks) == len(scene.keypoints)
    assert scene.masks.sum(axis=0).max(initial=0) <= 1  # no pixel has two owners
    assert all(mask.sum() >= MIN_VISIBLE_PIXELS for mask in scene.masks)
    for category, mask, keypoints in zip(scene.categories, scene.masks, scene.keypoints):
        assert (keypoints is not None) == (shapes.SHAPES_CLASSES[category] == "figure")
        if keypoints is None:
            continue
        for x, y, visibility in keypoints:
            if visibility == 2:
                assert mask[int(y), int(x)]
            elif visibility == 1:
                assert not mask[int(y), int(x)]
            else:
                assert x == y == 0


def test_objects_differ_from_what_is_around_them():
    differences = []
    for seed in range(10):
        scene = render_scene(np.random.default_rng(seed), 160, 160)
        for mask in scene.masks:
            around = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) - mask
            mean_in, mean_out = (scene.image[m.astype(bool)].mean(0) for m in (mask, around))
            differences.append(np.abs(mean_in - mean_out).max())
    assert np.median(differences) > 50
    assert np.mean(np.array(differences) > 20) > 0.9


# ------------------------------------------------------------------------------------- data set


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    spec = ShapesSpec("train", 24, 160, 3)
    return spec, generate_shapes(spec, tmp_path_factory.mktemp("shapes"))


def test_json_agrees_with_pycocotools(small_set):
    _, file = small_set
    coco = COCO(str(file))
    assert len(coco.imgs) == 24
    assert len(coco.anns) >= 3 * 24 * 0.9
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        assert mask.sum() == annotation["area"]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = columns[0], rows[0]
        assert annotation["bbox"] == [x, y, columns[-1] + 1 - x, rows[-1] + 1 - y]
        assert len(annotation["keypoints"]) == 3 * len(shapes.SHAPES_KEYPOINT_NAMES)
        assert annotation["num_keypoints"] == sum(v > 0 for v in annotation["keypoints"][2::3])
    for image in coco.imgs.values():
        assert max(image["height"], image["width"]) == 160
        assert 0.74 <= image["width"] / image["height"] <= 1.35
        decoded = cv2.imread(str(file.parent / "images" / image["file_name"]))
        assert decoded.shape == (image["height"], image["width"], 3)


@pytest.mark.slow
def test_set_is_as_varied_as_promised(tmp_path):
    file = generate_shapes(ShapesSpec("val", 80, 320, 0), tmp_path)
    coco = COCO(str(file))
    annotations = list(coco.anns.values())
    sizes = np.array([max(a["bbox"][2:]) for a in annotations])
    assert sizes.min() <= 9
    assert sizes.max() > 120
    assert {a["category_id"] for a in annotations} == set(range(1, 9))
    fractions = np.bincount([a["category_id"] for a in annotations])[1:] / len(annotations)
    assert fractions.min() > 0.06
    # The box is a bad mask: many objects fill less than half of theirs.
    fill = [a["area"] / np.prod(a["bbox"][2:]) for a in annotations]
    assert np.mean(np.array(fill) < 0.5) > 0.4
    # Occlusion: boxes of one picture overlap.
    overlapping = 0
    for image_id in coco.imgs:
        boxes = [a["bbox"] for a in coco.imgToAnns[image_id]]
        iou = mask_util.iou(boxes, boxes, [0] * len(boxes))
        overlapping += sum((row > 0.1).sum() > 1 for row in iou)
    assert overlapping > 0.3 * len(annotations)
    # A hole shows up as more than one contour.
    rings = [a for a in annotations if a["category_id"] == 1 and a["area"] > 400]
    contours = [
        cv2.findContours(coco.annToMask(a), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[1] for a in rings
    ]
    assert np.mean([(h[0, :, 3] >= 0).any() for h in contours]) > 0.4


def test_a_small_set_is_the_beginning_of_a_large_one_and_val_is_another(small_set, tmp_path):
    spec, file = small_set
    images = {}
    for other in (ShapesSpec("train", 3, 160, 3), ShapesSpec("val", 3, 160, 3)):
        folder = generate_shapes(other, tmp_path).parent / "images"
        images[other.split] = [path.read_bytes() for path in sorted(folder.iterdir())]
    first = [path.read_bytes() for path in sorted((file.parent / "images").iterdir())[:3]]
    assert images["train"] == first
    assert not set(images["val"]) & {p.read_bytes() for p in (file.parent / "images").iterdir()}
    assert spec.folder("a") != ShapesSpec("train", 24, 160, 4).folder("a")


def test_load_gives_detectron2_dicts_with_the_half_pixel_of_coco(small_set):
    spec, file = small_set
    records = load_shapes(spec, file.parents[1])
    raw = json.loads(file.read_text())["annotations"]
    loaded = [a for record in records for a in record["annotations"]]
    assert len(loaded) == len(raw)
    for annotation, original in zip(loaded, raw):
        expected = np.array(original["keypoints"]).reshape(-1, 3) + (0.5, 0.5, 0)
        np.testing.assert_allclose(np.reshape(annotation["keypoints"], (-1, 3)), expected)
        assert set(annotation["segmentation"]) == {"size", "counts"}


def test_registration_is_lazy_and_can_be_replaced(tmp_path):
    name = "mrcnn_ext_test_shapes"
    register_shapes(name, ShapesSpec("train", 2, 64, 0), tmp_path)
    assert list(tmp_path.iterdir()) == []
    register_shapes(name, ShapesSpec("train", 3, 64, 0), tmp_path)
    try:
        assert len(DatasetCatalog.get(name)) == 3
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == list(shapes.SHAPES_CLASSES)
        assert COCO(metadata.json_file).dataset["categories"][-1]["name"] == "figure"
        assert len(metadata.keypoint_connection_rules) == len(shapes.SHAPES_SKELETON)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_evaluator_may_come_before_the_data(tmp_path):
    name = "mrcnn_ext_test_evaluator_first"
    register_shapes(name, ShapesSpec("val", 2, 96, 0), tmp_path)
    try:
        evaluator = COCOEvaluator(name, tasks=("bbox", "segm"), output_dir=str(tmp_path / "out"))
        records = DatasetCatalog.get(name)
        truth = COCO(str(ShapesSpec("val", 2, 96, 0).folder(tmp_path) / "annotations.json"))
        assert len(evaluator._coco_api.anns) == len(truth.anns) > 0
        assert len(records) == 2
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def test_builtin_names_follow_their_configuration():
    shapes.configure_builtin_shapes()  # the defaults, whatever another test left
    before = MetadataCatalog.get("mrcnn_ext_shapes_train")
    shapes.configure_builtin_shapes()  # nothing changes
    assert MetadataCatalog.get("mrcnn_ext_shapes_train") is before
    try:
        shapes.configure_builtin_shapes(num_train=2, num_val=1, image_size=64, seed=9)
        assert len(DatasetCatalog.get("mrcnn_ext_shapes_train")) == 2
        assert len(DatasetCatalog.get("mrcnn_ext_shapes_val")) == 1
    finally:
        shapes.configure_builtin_shapes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test", 10), "split 'test'"),
        (("train", 0), r"MRCNN_EXT\.SHAPES\.NUM_TRAIN\) is 0"),
        (("val", 2.5), r"MRCNN_EXT\.SHAPES\.NUM_VAL\) is 2.5"),
        (("val", 5, 32), r"MRCNN_EXT\.SHAPES\.IMAGE_SIZE\) is 32; .* from 64 to 4096"),
        (("val", 5, 64, -1), r"SEED\) is -1"),
    ],
)
def test_bad_specs_name_their_key(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ShapesSpec(*arguments)


def test_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="MRCNN_EXT_CACHE"):
        generate_shapes(ShapesSpec("train", 1, 64), tmp_path / "file")


def test_interrupted_generation_leaves_nothing_behind(tmp_path, monkeypatch):
    from mrcnn_ext.data.shapes import dataset

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_annotations", interrupt)
    spec = ShapesSpec("train", 2, 64)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(spec, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
    monkeypatch.undo()
    name = spec.folder(tmp_path).name
    left = tmp_path / f".{name}.making.abcd_123"  # of a process that was killed
    other = tmp_path / f"{name}.original"
    (left / "images").mkdir(parents=True)
    other.mkdir()
    assert generate_shapes(spec, tmp_path).is_file()
    assert not left.exists()
    assert other.is_dir()


@pytest.mark.slow
def test_processes_that_start_together_make_the_set_once(tmp_path):
    code = (
        "import sys, os\n"
        "from mrcnn_ext.data.shapes import ShapesSpec, generate_shapes\n"
        "file = generate_shapes(ShapesSpec('train', 20, 160), sys.argv[1])\n"
        "print(os.stat(file).st_ino)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    inodes = {process.communicate(timeout=120)[0].split()[-1] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(inodes) == 1


def test_visible_fraction_holds(monkeypatch):
    # The rule is kept at every placement; at the end it must hold against the final picture.
    from mrcnn_ext.data.shapes import scene as module

    canvases = []
    original = module._add

    def spy(canvas, rng, category):
        canvases.append(canvas)
        original(canvas, rng, category)

    monkeypatch.setattr(module, "_add", spy)
    for seed in range(8):
        render_scene(np.random.default_rng(seed), 128, 128)
        canvas = canvases[-1]
        for index, thing in enumerate(canvas.placed):
            visible = (canvas.owner == index).sum()
            assert visible == thing.visible
            if thing.category >= 0:
                assert visible >= MIN_VISIBLE_FRACTION * thing.area


# ------------------------------------------------------------------------------------------ pose set


@pytest.fixture(scope="module")
def pose_records(tmp_path_factory):
    spec = ShapesSpec("train", 12, 128, 0, "pose")
    name = "mrcnn_ext_test_pose"
    shapes.register_shapes(name, spec, tmp_path_factory.mktemp("pose"))
    yield DatasetCatalog.get(name), MetadataCatalog.get(name)
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


def test_pose_set_has_keypoints_of_each_class_in_their_slots(pose_records):
    records, metadata = pose_records
    assert metadata.thing_classes == ["figure", "crane", "blob"]
    content = json.loads(Path(metadata.json_file).read_text())
    lengths = {(a["category_id"], len(a["keypoints"])) for a in content["annotations"]}
    assert lengths == {(1, 33), (2, 18), (3, 0)}
    seen = set()
    for record in records:
        for annotation in record["annotations"]:
            points = np.reshape(annotation["keypoints"], (-1, 3))
            assert points.shape == (17, 3)
            labelled = np.flatnonzero(points[:, 2])
            own = metadata.mrcnn_ext_skeletons.slots(annotation["category_id"])
            assert set(labelled) <= set(own)
            mask = mask_util.decode(annotation["segmentation"]).astype(bool)
            for x, y, v in points[labelled]:
                assert bool(mask[int(y), int(x)]) == (v == 2)
                seen.add(int(v))
    assert seen == {1, 2}


def test_pose_set_is_mirrored_class_by_class(pose_records):
    """Detectron2's own mapper and flip, of keypoints that it takes for one set of 17."""
    records, metadata = pose_records
    indices = create_keypoint_hflip_indices([metadata.name])
    for record in records:
        width = record["width"]
        flip = T.HFlipTransform(width)
        for annotation in record["annotations"]:
            before = np.reshape(annotation["keypoints"], (-1, 3))
            turned = transform_instance_annotations(
                copy.deepcopy(annotation),
                T.TransformList([flip]),
                (record["height"], width),
                keypoint_hflip_indices=indices,
            )["keypoints"]
            for slot, name in enumerate(metadata.keypoint_names):
                swap = {"left": "right", "right": "left"}
                side = next((s for s in swap if f"/{s}_" in name), None)
                partner = name.replace(side, swap[side]) if side else name
                other = metadata.keypoint_names.index(partner)
                if before[other, 2]:
                    expected = (width - before[other, 0], before[other, 1], before[other, 2])
                    np.testing.assert_allclose(turned[slot], expected)
