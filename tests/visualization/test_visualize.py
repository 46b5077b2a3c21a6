# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, ROIMasks
from pycocotools import mask as mask_util

from mrcnn_ext.data.shapes import SHAPES_KEYPOINT_NAMES, SHAPES_SKELETON
from mrcnn_ext.errors import DataError
from mrcnn_ext.skeletons import Skeleton, SkeletonSet
from mrcnn_ext.visualization import (
    contact_sheet,
    draw_comparison,
    draw_ground_truth,
    draw_instances,
    plot_training_curves,
)
from mrcnn_ext.visualization.colors import instance_color
from mrcnn_ext.visualization.curves import _score_label
from mrcnn_ext.visualization.pose import draw_poses

METADATA = Metadata(
    thing_classes=["disc", "square"],
    keypoint_names=list(SHAPES_KEYPOINT_NAMES),
    keypoint_connection_rules=[(a, b, (255, 0, 0)) for a, b in SHAPES_SKELETON],
)
HEIGHT, WIDTH = 200, 260


def _masks() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    disc = (x - 70) ** 2 + (y - 100) ** 2 < 40**2
    square = (abs(x - 180) < 30) & (abs(y - 100) < 30)
    return np.stack([disc, square])


def _instances(keypoints: bool = False) -> Instances:
    instances = Instances((HEIGHT, WIDTH))
    instances.pred_boxes = Boxes(torch.tensor([[30.0, 60, 110, 140], [150, 70, 210, 130]]))
    instances.scores = torch.tensor([0.9, 0.4])
    instances.pred_classes = torch.tensor([0, 1])
    instances.pred_masks = torch.from_numpy(_masks())
    if keypoints:
        points = torch.rand(2, len(SHAPES_KEYPOINT_NAMES), 3, generator=torch.manual_seed(0))
        instances.pred_keypoints = points * torch.tensor([WIDTH, HEIGHT, 1.0])
    return instances


def _record(form: str) -> dict:
    annotations = []
    for category, mask in enumerate(_masks()):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        if form == "polygon":
            contour = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, 2)[0][0]
            segmentation = [contour.ravel().astype(float).tolist()]
        else:
            segmentation = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": category,
                "segmentation": segmentation,
            }
        )
    return {"file_name": "x.png", "height": HEIGHT, "width": WIDTH, "annotations": annotations}


def _gray() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)


def _changed(picture: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(int) - 128).max(axis=2) > 8


def test_masks_colour_their_pixels_and_no_others():
    picture = draw_instances(_gray(), _instances(), METADATA, scale=1.0)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    changed = _changed(picture)
    assert changed[_masks().any(0)].mean() > 0.98
    # Besides masks: box lines and labels, which lie at the boxes.
    away = np.ones((HEIGHT, WIDTH), bool)
    away[55:145, 25:215] = False
    assert changed[away].mean() < 0.01
    colors = [picture[100, 60], picture[110, 190]]
    assert np.abs(colors[0].astype(int) - colors[1]).max() > 40


def test_ids_are_in_labels_and_have_their_colour_in_every_picture(monkeypatch):
    written = []
    monkeypatch.setattr(
        "mrcnn_ext.visualization.instances.write_labels",
        lambda canvas, labels, *_, **__: (written.append([x.text for x in labels]), canvas)[1],
    )
    first, second = _instances(), _instances()[[1]]
    first.track_ids, second.track_ids = [7, None], [7]
    pictures = [draw_instances(_gray(), one, METADATA, scale=1.0) for one in (first, second)]
    assert written == [["disc #7 90%", "square 40%"], ["square #7 40%"]]
    color = 255 * instance_color(7)
    for picture, place in zip(pictures, ((100, 60), (110, 190))):
        assert np.abs(picture[place] - (0.4 * color + 0.6 * 128)).max() < 2
    assert np.abs(pictures[0][110, 190] - pictures[1][110, 190].astype(int)).max() > 40


def test_masks_are_drawn_exactly_and_their_holes_stay_open():
    instances = _instances()
    instances.pred_masks[1, 92:108, 172:188] = False
    picture = draw_instances(_gray(), instances, METADATA, scale=1.0)
    # Box lines lie at the sides of this region, labels above it.
    region = (slice(85, 127), slice(155, 205))
    assert np.array_equal(_changed(picture)[region], instances.pred_masks[1].numpy()[region])


def _polygons(mask: np.ndarray) -> list[np.ndarray]:
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, 2)[0]
    return [contour.ravel().astype(float) for contour in contours]


def _rle(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


@pytest.mark.parametrize(
    ("convert", "tolerance"),
    [
        (lambda m: torch.from_numpy(m).float() * 0.9, 0),
        (lambda m: BitMasks(torch.from_numpy(m)), 0),
        (lambda m: [_rle(mask) for mask in m], 0),
        (lambda m: PolygonMasks([_polygons(mask) for mask in m]), 0.02),
        (lambda m: [_polygons(mask) for mask in m], 0.02),
        (lambda m: ROIMasks(torch.ones(2, 28, 28)), 0.1),  # squares, as large as the boxes
    ],
    ids=["float", "BitMasks", "RLE", "PolygonMasks", "polygons", "ROIMasks"],
)
def test_all_forms_of_masks_give_the_same_picture(convert, tolerance):
    expected = draw_instances(_gray(), _instances(), METADATA, scale=1.0)
    instances = _instances()
    instances.remove("pred_masks")
    instances.pred_masks = convert(_masks())
    picture = draw_instances(_gray(), instances, METADATA, scale=1.0)
    assert (_changed(picture) != _changed(expected)).mean() <= tolerance


def test_lines_do_not_grow_with_the_image():
    instances = _instances()
    instances.remove("pred_masks")
    instances.pred_classes[:] = 7  # beyond the names: drawn as a number
    widths = []
    for scale in (1, 4):
        picture = draw_instances(_gray(), instances, METADATA, scale=float(scale))
        widths.append(_changed(picture)[120 * scale, : 70 * scale].sum())  # the left side
    assert 1 <= widths[0] <= 6
    assert widths[1] <= 2 * widths[0]


def test_labels_of_small_objects_are_as_large_and_stay_in_the_picture():
    def ground(box):  # the pixels of the label's dark ground
        instances = _instances()[:1]
        instances.remove("pred_masks")
        instances.pred_boxes = Boxes(torch.tensor([box]))
        return (draw_instances(_gray(), instances, METADATA, scale=2.0).max(axis=2) < 60).sum()

    large = ground([20.0, 20.0, 200.0, 180.0])
    assert large > 500
    for small in ([100.0, 100, 106, 106], [252.0, 100, 258, 106], [100.0, 190, 106, 198]):
        assert ground(small) == pytest.approx(large, rel=0.15)


def test_threshold_and_reproducibility():
    picture = draw_instances(_gray(), _instances(), METADATA, score_threshold=0.5, scale=1.0)
    changed = _changed(picture)
    assert changed[_masks()[0]].mean() > 0.98
    assert not changed[80:120, 160:200].any()
    again = draw_instances(_gray(), _instances(), METADATA, score_threshold=0.5, scale=1.0)
    assert np.array_equal(picture, again)


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert max(draw_instances(_gray(), _instances(), METADATA).shape) == 640
    large = np.zeros((300, 1000, 3), np.uint8)
    assert draw_instances(large, Instances((300, 1000), **_empty())).shape == large.shape


def _empty() -> dict:
    return {
        "pred_boxes": Boxes(torch.zeros(0, 4)),
        "scores": torch.zeros(0),
        "pred_classes": torch.zeros(0, dtype=torch.int64),
        "pred_masks": torch.zeros(0, 300, 1000, dtype=torch.bool),
    }


@pytest.mark.parametrize("metadata", [METADATA, Metadata(), None, Metadata(keypoint_names=["one"])])
def test_keypoints_are_drawn_with_and_without_a_skeleton(metadata):
    without = draw_instances(_gray(), _instances(), metadata, scale=1.0)
    picture = draw_instances(_gray(), _instances(keypoints=True), metadata, scale=1.0)
    assert (without != picture).any()


def _pose(third: float, slots=(0, 1, 2), metadata=METADATA, class_id: int = 0) -> np.ndarray:
    """A canvas with the crown, neck and waist of a figure, one above the other."""
    canvas = _gray()
    points = np.zeros((1, len(SHAPES_KEYPOINT_NAMES), 3))
    for slot in slots:
        points[0, slot] = (130.5, 40.5 + 60 * slot, third)
    box = np.array([[80.0, 20, 180, 190]])
    draw_poses(canvas, points, np.array([class_id]), box, [np.array([1.0, 0, 0])], metadata,
               truth=third >= 1)  # fmt: skip
    return canvas


def test_limbs_points_and_what_is_hidden_or_unsure():
    visible, hidden = _pose(2), _pose(1)
    assert tuple(visible[70, 130]) == (255, 0, 0)  # between crown and neck, in the object's colour
    assert tuple(visible[40, 130]) == (255, 255, 255)  # a filled point
    assert tuple(hidden[40, 130]) == (25, 25, 25)  # a hollow one
    sure, unsure, nothing = _pose(0.9), _pose(0.1), _pose(0.01)
    assert tuple(sure[40, 130]) == (255, 255, 255)
    assert tuple(unsure[40, 130]) == (25, 25, 25)
    widths = [(picture[70, 100:160] != 128).any(axis=1).sum() for picture in (sure, unsure)]
    assert widths[0] > widths[1] > 0
    assert not _changed(nothing).any()
    assert not _changed(_pose(0.0)).any()
    assert tuple(_pose(2, slots=(0, 2))[100, 130]) == (128, 128, 128)  # no limb between them


def test_sides_have_shades_and_classes_their_own_slots():
    left, right = _pose(2, slots=(1, 3)), _pose(2, slots=(1, 4))  # neck and an elbow
    assert left.astype(int).sum() > right.astype(int).sum()
    skeletons = SkeletonSet(
        (
            Skeleton("bar", ("a", "b"), edges=(("a", "b"),)),
            Skeleton("dot", SHAPES_KEYPOINT_NAMES[:9]),
        ),
        (0, 1, None),
    )
    metadata = Metadata(mrcnn_ext_skeletons=skeletons)
    bar = _pose(2, metadata=metadata, class_id=0)
    assert tuple(bar[70, 130]) == (255, 0, 0)
    assert tuple(bar[160, 130]) == (128, 128, 128)  # the third slot is another class's
    dot = _pose(2, metadata=metadata, class_id=1)
    assert tuple(dot[160, 130]) == (255, 255, 255)
    assert tuple(dot[40, 130]) == (128, 128, 128)
    assert not _changed(_pose(2, metadata=metadata, class_id=2)).any()


def test_sides_of_names_with_letters():
    names = ("nose", "l_eye", "r_eye", "collar")
    skeleton = Skeleton("face", names, edges=(("nose", "l_eye"), ("nose", "r_eye")))
    metadata = Metadata(mrcnn_ext_skeletons=SkeletonSet.single(skeleton, ["face"]))
    points = np.array([[[130.5, 40.5, 2], [60.5, 150.5, 2], [200.5, 150.5, 2], [130.5, 180.5, 2]]])
    canvas = _gray()
    draw_poses(canvas, points, np.array([0]), np.array([[40.0, 20, 220, 190]]),
               [np.array([1.0, 0, 0])], metadata, truth=True)  # fmt: skip
    left, right, middle = canvas[95, 95], canvas[95, 165], canvas[177, 130]
    assert left.astype(int).sum() > 255 > right.astype(int).sum()
    assert middle[0] == 255  # an r within a word is no side
    assert middle[1] < 100


def test_keypoints_that_are_no_numbers_are_not_drawn():
    canvas = _gray()
    points = np.full((1, len(SHAPES_KEYPOINT_NAMES), 3), np.nan)
    points[..., 2] = 0.9
    draw_poses(canvas, points, np.array([0]), np.array([[80.0, 20, 180, 190]]),
               [np.array([1.0, 0, 0])], METADATA)  # fmt: skip
    assert not _changed(canvas).any()


@pytest.mark.parametrize("form", ["polygon", "rle"])
def test_ground_truth_in_both_forms(form):
    picture = draw_ground_truth(_record(form), METADATA, image=_gray(), scale=1.0)
    assert _changed(picture)[_masks().any(0)].mean() > 0.97


def test_ground_truth_keypoints_of_visibility_0_are_not_drawn():
    record = _record("rle")
    plain = draw_ground_truth(record, METADATA, image=_gray(), scale=1.0)
    for annotation in record["annotations"]:
        annotation["keypoints"] = [0.5, 0.5, 0] * len(SHAPES_KEYPOINT_NAMES)
    assert np.array_equal(plain, draw_ground_truth(record, METADATA, image=_gray(), scale=1.0))
    record["annotations"][0]["keypoints"][:3] = [20.0, 180.0, 2]
    assert (plain != draw_ground_truth(record, METADATA, image=_gray(), scale=1.0)).any()


def test_annotations_may_lack_masks_or_have_empty_ones():
    record = _record("polygon")
    record["annotations"][0]["segmentation"] = []
    del record["annotations"][1]["segmentation"]
    picture = draw_ground_truth(record, METADATA, image=_gray(), scale=1.0)
    assert _changed(picture)[100, 30:33].any()  # the box
    assert not _changed(picture)[95:105, 60:80].any()
    record["annotations"][0]["segmentation"] = {
        "counts": [0, HEIGHT * WIDTH],  # not compressed
        "size": [HEIGHT, WIDTH],
    }
    filled = draw_ground_truth(record, METADATA, image=_gray(), scale=1.0)
    assert _changed(filled).mean() > 0.98  # all but text


def test_image_without_objects():
    record = {"file_name": "x.png", "height": HEIGHT, "width": WIDTH, "annotations": []}
    assert not _changed(draw_ground_truth(record, METADATA, image=_gray())).any()


def test_comparison_shows_both_sides(tmp_path):
    record = _record("rle")
    record["file_name"] = str(tmp_path / "gray.png")
    cv2.imwrite(record["file_name"], _gray())
    picture = draw_comparison(record, _instances(), METADATA, score_threshold=0.5)
    height, width = picture.shape[:2]
    assert width == 2 * 640 + 6
    square = (slice(30 + 260, height - 200), slice(400, 480))
    left, right = picture[:, :640], picture[:, -640:]
    assert _changed(left[square]).all()  # in the truth
    assert not _changed(right[square]).any()  # predicted with a score of 0.4 only


def test_wrong_sizes_and_missing_images_name_the_file(tmp_path):
    small = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(DataError, match=r"predictions for x.png .* \(200, 260\).* \(10, 10\)"):
        draw_comparison({"file_name": "x.png"}, _instances(), image=small)
    with pytest.raises(DataError, match=r"x.png has .* \(10, 10\), but its record says \(200, 260"):
        draw_comparison(_record("rle"), _instances(), image=small)
    record = _record("rle")
    record["annotations"][0]["segmentation"] = _rle(np.ones((5, 6)))
    with pytest.raises(DataError, match=r"image x.png: a mask has .* \(5, 6\)"):
        draw_ground_truth(record, image=_gray())
    record["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": "PPYo0"}
    with pytest.raises(DataError, match=r"image x.png: .*RLE"):
        draw_ground_truth(record, image=_gray())
    with pytest.raises(DataError, match=r"image x.png cannot be read"):
        draw_ground_truth(_record("rle"))
    record = {**_record("rle"), "file_name": str(tmp_path / "small.png")}
    cv2.imwrite(record["file_name"], np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(DataError, match=r"small.png has .* \(10, 12\), but its record says"):
        draw_ground_truth(record)


def test_contact_sheet_places_every_picture():
    images = [np.full((10 + i, 20 - i, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (11 + 8 + 13 + 8 + 14, 20 + 8 + 20, 3)
    assert (sheet[:10, :20] == 0).all()
    assert (sheet[:11, 28:47] == 10).all()
    assert (sheet[19:31, :18] == 20).all()
    assert (sheet[-14:, :16] == 40).all()
    with pytest.raises(ValueError, match="0 pictures"):
        contact_sheet([], 2)


def _metrics(tmp_path, lines):
    file = tmp_path / "metrics.json"
    file.write_text("\n".join(lines))
    return file


def test_curves_survive_resumed_and_half_written_files(tmp_path):
    entries = [{"iteration": i, "total_loss": 3 / (i + 1), "loss_mask": 0.5} for i in (0, 20, 40)]
    entries.append({"iteration": 20, "total_loss": 9.0, "loss_mask": 0.4})
    entries.append({"iteration": 40, "bbox/AP": 12.0, "segm/AP": 10.0, "segm/APl": float("nan")})
    lines = [json.dumps(entry) for entry in entries] + ['{"iteration": 60, "tot', "7", "\0"]
    from mrcnn_ext.visualization.curves import _read_metrics

    losses, scores = _read_metrics(_metrics(tmp_path, lines))
    assert losses["total_loss"] == {0: 3.0, 20: 9.0, 40: 3 / 41}
    assert scores == {"bbox/AP": {40: 12.0}, "segm/AP": {40: 10.0}}
    out = tmp_path / "curves.png"
    assert plot_training_curves(tmp_path / "metrics.json", out) == out
    picture = cv2.imread(str(out))
    assert picture.shape[1] > 800
    assert picture.std() > 10


def test_curves_of_several_test_sets(tmp_path):
    entry = {"iteration": 9, "total_loss": 1.0, "set_a/bbox/AP": 3.0, "set_b/bbox/AP": 4.0}
    out = tmp_path / "new" / "curves.png"
    plot_training_curves(_metrics(tmp_path, [json.dumps(entry)]), out)
    assert cv2.imread(str(out)).shape[1] > 800  # losses and scores
    assert _score_label("set_a/bbox/AP") == "set_a box AP"
    assert _score_label("segm/AP50") == "mask AP50"


@pytest.mark.parametrize("lines", [[], ['{"iteration": 1, "bbox/AP": 3.0}']])
def test_nothing_to_plot_is_said(tmp_path, lines):
    with pytest.raises(DataError, match="holds no losses"):
        plot_training_curves(_metrics(tmp_path, lines), tmp_path / "out.png")
    with pytest.raises(DataError, match="cannot be read"):
        plot_training_curves(tmp_path / "none.json", tmp_path / "out.png")
