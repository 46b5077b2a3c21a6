# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Small models of every kind whose scores differ well, and images on which they find some."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model
from torch import nn

from mrcnn_ext.deploy import ModelInput, OnnxModel, export_onnx
from mrcnn_ext.deploy.parity import Parity, compare_detections, join
from mrcnn_ext.predict.exported import detections_of
from tests.helpers import timm_cfg

SIZES = [(65, 100), (250, 170), (40, 200), (300, 420)]  # none of them is traced
IMAGES = 8


def box_cfg(roi_heads: str = "MrcnnExtStandardROIHeads"):
    fpn = "Res5" not in roi_heads
    cfg = timm_cfg("resnet18", fpn=fpn)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in roi_heads  # which asks for it
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256 if fpn else 64
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    if not roi_heads.startswith("MrcnnExt"):
        cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    return cfg


def mask_cfg(name: str = "MrcnnExtFCNMaskHead", **options):
    cfg = box_cfg()
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    node = cfg.MRCNN_EXT.MASK_HEAD
    node.SCORE_CONV_DIM, node.SCORE_FC_DIM = 8, 16
    node.DYNAMIC.MAP_CONV_DIM, node.DEEP.CONV_DIM = 16, 8
    for key, value in options.items():
        node[key] = value
    return cfg


def keypoint_cfg(name: str, roi_heads: str = "MrcnnExtStandardROIHeads", **options):
    cfg = box_cfg(roi_heads)
    cfg.MODEL.KEYPOINT_ON = True
    head = cfg.MODEL.ROI_KEYPOINT_HEAD
    head.NAME, head.NUM_KEYPOINTS, head.CONV_DIMS = name, 7, [16]
    for key, value in options.items():
        cfg.MRCNN_EXT.KEYPOINT_HEAD[key] = value
    return cfg


def boxes_only_cfg():
    cfg = box_cfg()
    cfg.MODEL.MASK_ON = False
    return cfg


_MASKS = ("FCN", "Wrapped", "Boundary", "Dynamic", "Deep", "PointRend", "Refine")
_ROI_HEADS = [f"{own}{kind}ROIHeads" for own in ("", "MrcnnExt") for kind in ("Cascade", "Res5")]
_HEATMAP, _SIMCC = "MrcnnExtHeatmapKeypointHead", "MrcnnExtSimCCKeypointHead"
_RLE = "MrcnnExtRegressionKeypointHead"
CASES: dict[str, Callable] = {
    "boxes only": boxes_only_cfg,
    "StandardROIHeads": partial(box_cfg, "StandardROIHeads"),
    **{name: partial(box_cfg, name) for name in _ROI_HEADS},
    **{f"{name} masks": partial(mask_cfg, f"MrcnnExt{name}MaskHead") for name in _MASKS},
    "mask_iou, folded": partial(mask_cfg, SCORE="mask_iou", FOLD_SCORE=True),
    "certainty": partial(mask_cfg, SCORE="certainty"),
    "mean_foreground": partial(mask_cfg, SCORE="mean_foreground"),
    "context": partial(mask_cfg, CONTEXT=1.5),
    "softmax": partial(mask_cfg, COUPLING="softmax"),
    "Detectron2's keypoints": partial(
        keypoint_cfg, "KRCNNConvDeconvUpsampleHead", "StandardROIHeads"
    ),
    "C4 keypoints": partial(keypoint_cfg, _HEATMAP, "MrcnnExtRes5ROIHeads"),
    **{
        f"{codec}, {score}": partial(keypoint_cfg, head, CODEC=codec, SCORE=score)
        for head, codecs in (
            (_HEATMAP, {"one_hot": "max", "gaussian": "max", "udp": "max", "integral": "max"}),
            (_SIMCC, {"simcc": "max"}),
            (_RLE, {"rle": "sigma"}),
        )
        for codec, first in codecs.items()
        for score in (first, "oks")
    },
    "folded keypoints": partial(keypoint_cfg, _HEATMAP, FOLD_SCORE=True),
    "mask-guided": partial(
        keypoint_cfg, _HEATMAP, CODEC="gaussian", MASK_GUIDED=True, FOLD_SCORE=True
    ),
}


def build_case(cfg) -> nn.Module:
    """A model with random weights, scaled so that scores differ and boxes move."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    generator = torch.Generator().manual_seed(1)
    deviations = {"cls_score": 0.1, "bbox_pred": 0.05, "objectness": 0.3, "anchor_deltas": 0.02}
    with torch.no_grad():
        for name, module in model.named_modules():
            # Without a training, frozen norms let each block of a ResNet double the variance.
            if type(module).__name__ == "FrozenBatchNorm2d" and hasattr(module, "weight"):
                factors = {"conv3.norm": 0.2, "stem.conv1.norm": 0.02}
                module.weight *= next((v for k, v in factors.items() if name.endswith(k)), 1.0)
        for name, parameter in model.named_parameters():
            for part, deviation in deviations.items():
                if f"{part}.weight" in name or f"{part}_logits.weight" in name:
                    inputs = parameter[0].numel() if "score" in name or "bbox" in name else 32
                    deviation *= (32 / inputs) ** 0.5
                    parameter.normal_(0, deviation, generator=generator)
            if "predictor" in name and "mask" in name and parameter.dim() > 1:
                parameter.mul_(100)
    return model


def scale_outputs(model: nn.Module) -> nn.Module:
    """Give the last layers of RPN and box heads outputs of ordinary size, whatever the widths."""
    deviations = {
        "objectness_logits": 2.0,
        "anchor_deltas": 0.3,
        "cls_score": 2.0,
        "bbox_pred": 0.5,
    }
    layers = {
        module: deviations[name.rpartition(".")[2]]
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in deviations
    }

    def scale(module: nn.Module, inputs, output: torch.Tensor) -> torch.Tensor:
        axes = [axis for axis in range(output.dim()) if axis != 1]
        mean = output.mean(axes, keepdim=True)  # what all places have in common
        factor = layers[module] / float((output - mean).std().clamp(min=1e-6))
        module.weight *= factor
        module.bias.sub_(mean.flatten()).mul_(factor)
        return (output - mean) * factor

    handles = [module.register_forward_hook(scale) for module in layers]
    run_model(model, picture(0, 200, 300))
    for handle in handles:
        handle.remove()
    return model


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """(height, width, 3) uint8 of soft spots."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def pictures() -> list[np.ndarray]:
    return [picture(seed, *SIZES[seed % len(SIZES)]) for seed in range(IMAGES)]


def run_model(model: nn.Module, image: np.ndarray):
    """What the model finds on an image that is not resized."""
    tensor = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
    inputs = {"image": tensor, "height": image.shape[0], "width": image.shape[1]}
    with torch.no_grad():
        return model([inputs])[0]["instances"]


def set_threshold(model: nn.Module, value: float) -> None:
    predictors = model.roi_heads.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        predictor.test_score_thresh = value


def choose_threshold(model: nn.Module, images: list[np.ndarray]) -> float:
    """A score threshold with which one image has no detection and another one a single one."""
    on = {name: getattr(model.roi_heads, name, False) for name in ("mask_on", "keypoint_on")}
    for name in on:
        setattr(model.roi_heads, name, False)  # boxes will do, with scores that nothing changed
    tops = []
    for image in images:
        scores = run_model(model, image).scores.tolist()
        tops.append(([*scores, 0.0, 0.0])[:2])
    for name, value in on.items():
        setattr(model.roi_heads, name, value)
    lowest = min(first for first, _ in tops)
    gaps = [(first - max(second, lowest), first) for first, second in tops]
    gap, first = max(gaps)
    assert gap > 2e-4, f"the scores do not differ enough: {tops}"
    return first - gap / 2


def export_case(model: nn.Module, file: Path, **options) -> OnnxModel:
    export_onnx(model, file, ModelInput("BGR", 0, 0), **options)
    return OnnxModel(file, threads=1)


def parity(model: nn.Module, runner: OnnxModel, images: list[np.ndarray]) -> tuple[Parity, list]:
    """Differences over the images, and how many detections each has."""
    parts, numbers = [], []
    for image in images:
        expected, masks = detections_of(run_model(model, image))
        parts.append(compare_detections(expected, runner(image), masks))
        numbers.append(len(expected))
    return join(parts), numbers
