# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""One training of the paired study, and its measures.

Runs of one seed differ in the pooler type alone: they start from the same weights and see the same
images in the same order. Checksums of both are kept with the result, so that this can be checked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from pycocotools import mask as mask_util
from torch import nn

from mrcnn_ext.config.load import load_config
from mrcnn_ext.config.schedule import short_schedule
from mrcnn_ext.files import write_json

from . import BASELINE, POOLER_TYPES

__all__ = [
    "boundary",
    "mask_measures",
    "masks_at_true_boxes",
    "run_config",
    "run_folder",
    "swap",
    "train",
]

CONFIG = "Shapes/mask_rcnn_Lite0_FPN.yaml"
_AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_DILATION = 0.02  # of the image's diagonal: Boundary IoU's (Cheng et al., 2021) default


def run_folder(output: Path, pooler_type: str, seed: int) -> Path:
    """Where a run keeps its log, its model and its result.json."""
    return output / "runs" / f"{pooler_type}_seed{seed}"


def run_config(pooler_type: str, seed: int, iterations: int, folder: Path, opts: Sequence[str]):
    """The demo's config with a pooler type, a seed, a shorter schedule and one mask for all classes.

    Args:
        opts: further overrides, KEY VALUE …, the same for all runs.
    """
    overrides = {
        "SOLVER.CHECKPOINT_PERIOD": iterations,
        # One mask channel for all classes: a short schedule does not fill eight
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
        "DATALOADER.NUM_WORKERS": 0,  # two runs side by side have a core each
    }
    own = {
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": pooler_type,
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": pooler_type,
        "SEED": seed,
        "OUTPUT_DIR": folder,
    }
    first = [str(part) for item in overrides.items() for part in item]
    last = [str(part) for item in own.items() for part in item]
    schedule = short_schedule(iterations, warmup=100)
    return load_config(CONFIG, [*schedule, *first, *opts, *last])


class _Watched:
    """A data loader that keeps a checksum of all that it handed out."""

    def __init__(self, loader) -> None:
        self.loader = loader
        self.checksum = 0

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            for item in batch:
                boxes = item["instances"].gt_boxes.tensor
                for tensor in (item["image"], boxes):
                    self.checksum = zlib.crc32(tensor.contiguous().numpy(), self.checksum)
            yield batch


class _Trainer(DefaultTrainer):
    """Detectron2's trainer; evaluation comes after it, with measures of our own."""

    watched: _Watched

    @classmethod
    def build_train_loader(cls, cfg):
        cls.watched = _Watched(super().build_train_loader(cfg))
        return cls.watched

    def build_hooks(self):
        return [hook for hook in super().build_hooks() if not isinstance(hook, EvalHook)]


def _weights_checksum(model: nn.Module) -> int:
    checksum = 0
    for value in model.state_dict().values():
        checksum = zlib.crc32(value.detach().cpu().contiguous().numpy(), checksum)
    return checksum


def train(
    pooler_type: str, seed: int, iterations: int, output: Path, opts: Sequence[str] = ()
) -> dict:
    """Train and evaluate one run; write and return its result.

    An interrupted run starts again: going on from a checkpoint would show it other images than the
    runs it is paired with.
    """
    folder = run_folder(output, pooler_type, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)  # Detectron2 would append to it
    setup_logger(str(folder / "log.txt"))
    cv2.setNumThreads(1)
    cfg = run_config(pooler_type, seed, iterations, folder, opts)
    seed_all_rng(seed)
    trainer = _Trainer(cfg)
    trainer.resume_or_load(resume=False)
    result: dict = {
        "pooler_type": pooler_type,
        "seed": seed,
        "iterations": iterations,
        "opts": list(opts),
        "weights_before": _weights_checksum(trainer.model),
    }
    trainer.train()
    result["images_seen"] = trainer.watched.checksum
    result.update(evaluate(trainer.model, cfg, folder))
    write_json(folder / "result.json", result)
    return result


def swap(seed: int, iterations: int, output: Path, opts: Sequence[str] = ()) -> dict[str, dict]:
    """Masks at the true boxes by the baseline's model of a seed, with each other pooler put in.

    Returns:
        by pooler type what :func:`masks_at_true_boxes` does; also written to swapped.json.
    """
    folder = run_folder(output, BASELINE, seed)
    objects = {}
    for pooler_type in POOLER_TYPES[:-1]:
        cfg = run_config(pooler_type, seed, iterations, folder, opts)
        model = build_model(cfg)
        DetectionCheckpointer(model).load(str(folder / "model_final.pth"))
        objects[pooler_type] = masks_at_true_boxes(model, cfg)
    write_json(folder / "swapped.json", objects)
    return objects


def evaluate(model: nn.Module, cfg, folder: Path) -> dict:
    """AP by COCOEvaluator, and the masks at the true boxes."""
    name = cfg.DATASETS.TEST[0]
    evaluator = COCOEvaluator(name, ("bbox", "segm"), False, output_dir=str(folder / "inference"))
    scores = DefaultTrainer.test(cfg, model, [evaluator])
    aps = {
        f"{kind}/{ap}": float(scores.get(kind, {}).get(ap, "nan"))
        for kind in ("bbox", "segm")
        for ap in _AP_NAMES
    }
    return {"ap": aps, "objects": masks_at_true_boxes(model, cfg)}


@torch.no_grad()
def masks_at_true_boxes(model: nn.Module, cfg) -> dict[str, list[float]]:
    """How well the mask head does where detection cannot fail: at the true box, for the true class.

    Returns:
        columns with an entry for each object of the validation set: see :func:`mask_measures`.
    """
    was_training = model.training
    model.eval()
    mapper = DatasetMapper(cfg, is_train=False)
    columns: dict[str, list[float]] = {}
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
        annotations = record["annotations"]
        if not annotations:
            continue
        predicted = _predict_masks(model, mapper(record), annotations)
        for annotation, mask in zip(annotations, predicted):
            truth = mask_util.decode(annotation["segmentation"])
            for key, value in mask_measures(mask, truth).items():
                columns.setdefault(key, []).append(round(value, 5))
    model.train(was_training)
    return columns


def _predict_masks(model: nn.Module, inputs: dict, annotations: list[dict]) -> np.ndarray:
    """uint8 (N, H, W) in the original image's pixels, in the annotations' order."""
    height, width = inputs["image"].shape[1:]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    given = Instances((height, width))
    given.pred_boxes = Boxes(torch.tensor(boxes))
    given.pred_boxes.scale(width / inputs["width"], height / inputs["height"])
    given.pred_classes = torch.tensor([a["category_id"] for a in annotations])
    masks = model.inference([inputs], [given])[0]["instances"].pred_masks
    assert len(masks) == len(annotations)
    return masks.cpu().numpy().astype(np.uint8)


def mask_measures(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare two uint8 (H, W) masks of 0 and 1.

    Returns:
        area: of ``truth`` in pixels; iou; boundary_iou: with the width that Cheng et al. give it;
        contour_iou: the same of contours one pixel wide, which tells small objects apart (in theirs
        such an object is all boundary); dx, dy: centre of the mask minus the true one, in pixels,
        NaN for an empty mask.
    """
    width = max(1, round(_DILATION * float(np.hypot(*truth.shape))))
    dx, dy = _center(mask) - _center(truth)
    return {
        "area": int(truth.sum()),
        "iou": _iou(mask, truth),
        "boundary_iou": _iou(boundary(mask, width), boundary(truth, width)),
        "contour_iou": _iou(boundary(mask, 1), boundary(truth, 1)),
        "dx": float(dx),
        "dy": float(dy),
    }


def boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that are within ``width`` of its outside; so are the image's borders."""
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), dtype=np.uint8), iterations=width)
    return mask - inner[1:-1, 1:-1]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _center(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()]) if len(rows) else np.full(2, np.nan)
