# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""MrcnnExtRCNN is GeneralizedRCNN; and what it says about bad input."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances

from mrcnn_ext import model_zoo
from mrcnn_ext.config.check import check_config
from mrcnn_ext.data import register_coco, shapes
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.modeling.meta_arch import MODEL_TERMS, YAML_TERMS, check_training_inputs
from tests.helpers import random_inputs, timm_cfg, train_step


def _pair():
    cfg = timm_cfg("resnet18", fpn=True)
    ours = build_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    stock = build_model(cfg)
    stock.load_state_dict(ours.state_dict(), strict=True)
    return cfg, ours, stock


def test_same_parameters_losses_and_predictions_as_generalized_rcnn(tmp_path):
    cfg, ours, stock = _pair()
    assert type(stock) is GeneralizedRCNN
    losses = []
    for model in (ours, stock):
        torch.manual_seed(0)  # sampling of anchors and proposals
        losses.append(train_step(model, random_inputs(cfg)))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        assert value.item() == losses[1][key].item()
    outputs = []
    for model in (ours, stock):
        with torch.no_grad():
            outputs.append(model.eval()(random_inputs(cfg, number=1))[0]["instances"])
    assert len(outputs[0]) == len(outputs[1])
    assert torch.equal(outputs[0].pred_boxes.tensor, outputs[1].pred_boxes.tensor)
    assert torch.equal(outputs[0].pred_masks, outputs[1].pred_masks)


def test_trains_evaluates_and_survives_save_and_load(tmp_path):
    cfg, ours, _ = _pair()
    train_step(ours, random_inputs(cfg))
    DetectionCheckpointer(ours, str(tmp_path)).save("model")
    other = build_model(cfg)
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    for key, value in ours.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_shapes_keys_take_effect_when_the_model_is_built():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.SHAPES.NUM_TRAIN = 2
    cfg.MRCNN_EXT.SHAPES.NUM_VAL = 1
    cfg.MRCNN_EXT.SHAPES.IMAGE_SIZE = 96
    try:
        build_model(cfg)
        records = DatasetCatalog.get("mrcnn_ext_shapes_train")
        assert len(records) == 2
        assert max(records[0]["height"], records[0]["width"]) == 96
    finally:
        shapes.configure_builtin_shapes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", 80], "NUM_CLASSES is 80, .* has 8 classes: ring, star"),
        (["MODEL.ROI_MASK_HEAD.NAME", "NoHead"], "MODEL.ROI_MASK_HEAD.NAME is 'NoHead'.*MaskRCNN"),
        (["MODEL.ROI_HEADS.NAME", "NoHeads"], "MODEL.ROI_HEADS.NAME is 'NoHeads'"),
        (["MODEL.ROI_BOX_HEAD.NAME", "Nope"], "MODEL.ROI_BOX_HEAD.NAME is 'Nope'"),
        (["MODEL.BACKBONE.NAME", "nope"], "MODEL.BACKBONE.NAME is 'nope'.*build_timm_fpn_backbone"),
        (
            ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NAME", "Nope"],
            "MODEL.ROI_KEYPOINT_HEAD.NAME is 'Nope'",
        ),
        (["MODEL.KEYPOINT_ON", True], "NUM_KEYPOINTS is 17, .* 11 keypoints: crown, neck"),
        (
            ["DATASETS.TRAIN", "('mrcnn_ext_shape_train',)"],
            "DATASETS.TRAIN names 'mrcnn_ext_shape_train'.*similar names: mrcnn_ext_shapes_train",
        ),
        (["MRCNN_EXT.SHAPES.IMAGE_SIZE", 10], r"MRCNN_EXT\.SHAPES\.IMAGE_SIZE\) is 10"),
    ],
)
def test_contradictions_are_found_when_the_model_is_built(changes, message):
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.merge_from_list(changes)
    with pytest.raises(ConfigError, match=message):
        build_model(cfg)


def test_class_counts_of_a_user_data_set_are_checked_too():
    name = "mrcnn_ext_test_two_classes"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = ["a", "b"]
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.DATASETS.TEST = (name,)
    try:
        with pytest.raises(ConfigError, match=r"'mrcnn_ext_test_two_classes' \(DATASETS.TEST\)"):
            build_model(cfg)
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)


def _nan_box(batch):
    boxes = batch[1]["instances"].gt_boxes.tensor.clone()
    boxes[1, 2] = float("nan")
    batch[1]["instances"].gt_boxes = Boxes(boxes)


def _class_out_of_range(batch):
    batch[0]["instances"].gt_classes[0] = 8


def _negative_class(batch):
    batch[0]["instances"].gt_classes[0] = -1


def _no_instances(batch):
    del batch[0]["instances"]


def _no_masks(batch):
    batch[1]["instances"].remove("gt_masks")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_nan_box, r"noise_1.jpg \(id 1\): ground-truth box 1 is \[50.0, 30.0, nan, 90.0\]"),
        (_class_out_of_range, r"noise_0.jpg \(id 0\): ground-truth class 8 is outside 0 … 7"),
        (_negative_class, "class -1 is outside"),
        (_no_instances, "no 'instances', which training needs"),
        (
            _no_masks,
            r"noise_1.jpg \(id 1\): its 2 instances have no 'gt_masks'.*'segmentation', but "
            "MODEL.MASK_ON is True",
        ),
    ],
)
def test_bad_training_input_names_the_image(damage, message):
    cfg = timm_cfg("resnet18", fpn=True)
    batch = random_inputs(cfg)
    damage(batch)
    with pytest.raises(DataError, match=message):
        train_step(build_model(cfg), batch)


def test_the_check_can_be_switched_off():
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MRCNN_EXT.CHECK_INPUTS = False
    batch = copy.deepcopy(random_inputs(cfg))
    _nan_box(batch)
    try:
        train_step(build_model(cfg), batch)
    except DataError:
        pytest.fail("checked although CHECK_INPUTS is off")
    except (AssertionError, FloatingPointError, RuntimeError, ValueError):
        pass  # Detectron2's own way of saying so


def test_an_image_without_objects_needs_no_masks():
    cfg = timm_cfg("resnet18", fpn=True)
    batch = random_inputs(cfg)
    batch[0]["instances"] = Instances((96, 96))
    batch[0]["instances"].gt_boxes = Boxes(torch.zeros(0, 4))
    batch[0]["instances"].gt_classes = torch.zeros(0, dtype=torch.int64)
    assert "gt_masks" not in batch[0]["instances"].get_fields()
    train_step(build_model(cfg), batch)


def test_missing_keypoints_name_the_image_in_the_terms_of_either_config():
    instances = Instances(
        (9, 9), gt_boxes=Boxes(torch.ones(3, 4)), gt_classes=torch.zeros(3).long()
    )
    batch = [{"file_name": "a.jpg", "image_id": 7, "instances": instances}]
    for terms, words in ((YAML_TERMS, "MODEL.KEYPOINT_ON is True"), (MODEL_TERMS, "keypoint_head")):
        with pytest.raises(DataError, match=rf"a.jpg \(id 7\): its 3 .* 'gt_keypoints'.*{words}"):
            check_training_inputs(batch, 2, ["gt_keypoints"], terms)
    instances.gt_classes[1] = 2
    with pytest.raises(
        DataError, match=r"set model\.roi_heads\.num_classes to the number of classes"
    ):
        check_training_inputs(batch, 2, terms=MODEL_TERMS)


def test_a_lazy_config_gets_its_own_terms():
    config = model_zoo.get_config("Shapes/mask_rcnn_Lite0_FPN.py")
    config.model.roi_heads.num_classes = 2
    model = instantiate(config.model)
    batch = random_inputs(timm_cfg("resnet18", fpn=True))
    with pytest.raises(DataError) as error:
        train_step(model, batch)
    assert "model.roi_heads.num_classes" in str(error.value)
    assert "MODEL." not in str(error.value)


# ------------------------------------------------------------ jsons that are registered, not loaded


@pytest.fixture
def two_sets(tmp_path):
    """Names of two data sets of register_coco_instances, and a function that writes their jsons."""
    names = ["mrcnn_ext_test_first", "mrcnn_ext_test_second"]

    def write(*class_lists, annotation=()):
        for name, classes in zip(names, class_lists):
            content = {
                "images": [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9}],
                "categories": [{"id": i, "name": n} for i, n in classes],
                "annotations": [
                    {"id": 5, "image_id": 1, "category_id": classes[0][0], "bbox": [1, 1, 3, 3],
                     "iscrowd": 0, "area": 9, **dict(annotation)}
                ],
            }  # fmt: skip
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
            if name not in DatasetCatalog:
                register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
        cfg = timm_cfg("resnet18", fpn=True)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (names[0],), (names[1],)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
        return cfg

    yield write
    for name in names:
        if name in DatasetCatalog:
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)


AB = [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (AB, None),
        ([(2, "b"), (1, "a")], None),
        ([(7, "a"), (9, "b")], None),  # names, not ids, decide
        ([(1, "b"), (2, "a")], r"DATASETS.TEST\) has not the classes of .*number 0 .* is 'b'"),
        ([(1, "a"), (2, "c")], r"has not the classes of .*\[b\] are missing and \[c\] are not"),
        ([(1, "a")], "NUM_CLASSES is 2, but 'mrcnn_ext_test_second' .* has 1 classes: a"),
        ([(None, "a"), (2, "b")], "NUM_CLASSES is 2, .* has 1 classes: b"),
    ],
)
def test_class_names_of_train_and_test_are_compared(two_sets, second, words):
    cfg = two_sets(AB, second)
    if words is None:
        build_model(cfg)
        return
    with pytest.raises(ConfigError, match=words):
        build_model(cfg)


def test_more_classes_in_the_config_than_in_the_json_is_said_at_the_start(two_sets):
    cfg = two_sets(AB, AB)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    with pytest.raises(ConfigError, match=r"NUM_CLASSES is 80, but .* has 2 classes: a, b"):
        build_model(cfg)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"bbox": None}, "bbox None is not x, y"),
        ({"category_id": 7}, "its category_id 7 is not a category"),
        ({"segmentation": [[1, 1, 3, 3]]}, "no polygon has three points"),
        ({"area": "9"}, "area '9' is not a number"),
    ],
)
def test_a_bad_annotation_is_one_error_when_training_loads_the_data(two_sets, annotation, words):
    cfg = two_sets(AB, AB, annotation=annotation)
    build_model(cfg)
    build_model(cfg)
    with pytest.raises(DataError, match=rf"first.json: image 1, annotation 5: {words}"):
        DatasetCatalog.get(cfg.DATASETS.TRAIN[0])


@pytest.mark.parametrize("crowd", [1, None])
def test_a_training_set_without_objects_is_an_error(two_sets, crowd):
    cfg = two_sets(AB, AB, annotation={"iscrowd": crowd})
    build_model(cfg)
    with pytest.raises(DataError, match=r"first.json \('mrcnn_ext_test_first'\) has no object to"):
        DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert len(DatasetCatalog.get(cfg.DATASETS.TEST[0])) == 1


def test_what_training_drops_is_said_when_it_loads_the_data(two_sets, caplog):
    cfg = two_sets(AB, AB, annotation={"iscrowd": None})
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    build_model(cfg)
    (record,) = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert record["annotations"][0]["iscrowd"] is None  # as ever
    assert caplog.text.count("drops 1 annotations whose iscrowd is null") == 1
    assert "image 1, annotation 5 of" in caplog.text


@pytest.mark.parametrize("registered_by", ["detectron2", "mrcnn_ext"])
@pytest.mark.parametrize("masks", [True, False])
def test_an_image_with_masks_of_some_objects_only_is_an_error(
    two_sets, tmp_path, masks, registered_by
):
    cfg = two_sets(AB, AB)
    name, file = cfg.DATASETS.TRAIN[0], tmp_path / "mrcnn_ext_test_first.json"
    content = json.loads(file.read_text())
    content["annotations"].append(
        {**content["annotations"][0], "id": 6, "segmentation": [[1, 1, 4, 1, 4, 4]]}
    )
    file.write_text(json.dumps(content))
    if registered_by == "mrcnn_ext":
        register_coco(name, file, tmp_path)
    for cfg.MODEL.MASK_ON in (not masks, masks):
        build_model(cfg)
    if not masks:
        assert len(DatasetCatalog.get(name)[0]["annotations"]) == 2
        return
    with pytest.raises(DataError, match=r"image 1 \(.*a.jpg\): 1 of its 2 objects have no segment"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("known", [{}, {"keypoint_names": ["a"]}, {"keypoint_flip_map": []}])
def test_keypoints_need_metadata_to_train(two_sets, known):
    cfg = two_sets(AB, AB)
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = True, 1
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).set(**known)
    check_config(cfg)  # to evaluate
    words = "lacks " + " and ".join({"keypoint_names", "keypoint_flip_map"} - {*known})
    with pytest.raises(
        ConfigError, match=words if known else "lacks keypoint_names and keypoint_fl"
    ):
        check_config(cfg, training=True)
    metadata.set(**{"keypoint_names": ["a"], "keypoint_flip_map": [], **known})
    check_config(cfg, training=True)
