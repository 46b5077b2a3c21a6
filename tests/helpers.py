# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Small configs and inputs that many tests share."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from mrcnn_ext.config.load import default_config

REPO = Path(__file__).resolve().parents[1]
# Threads of a test: as many as its worker's share of the processor, two where there is one worker.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = 2 if _WORKERS == 1 else max((os.cpu_count() or 1) // _WORKERS, 1)


def small_cfg():
    """A Mask R-CNN that takes a step in well under a second on one core."""
    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.META_ARCHITECTURE = "MrcnnExtRCNN"
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 8
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.DATASETS.TRAIN = ("mrcnn_ext_shapes_train",)
    cfg.DATASETS.TEST = ("mrcnn_ext_shapes_val",)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg


def timm_cfg(name: str, fpn: bool):
    cfg = small_cfg()
    cfg.MRCNN_EXT.TIMM.NAME = name
    if not fpn:
        cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
        cfg.MRCNN_EXT.TIMM.OUT_FEATURES = ["res4"]
        cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    return cfg


def random_inputs(cfg, number: int = 2, height: int = 96, width: int = 128) -> list[dict]:
    """Images of noise with two rectangular objects each, as a data loader would hand them over."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for index in range(number):
        instances = Instances((height, width))
        boxes = torch.tensor([[10.0, 12.0, 60.0, 50.0], [50.0, 30.0, 120.0, 90.0]])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
            mask[y0:y1, x0:x1] = True
        instances.gt_boxes = Boxes(boxes)
        instances.gt_classes = torch.tensor([0, cfg.MODEL.ROI_HEADS.NUM_CLASSES - 1])
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 255, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append(
            {
                "image": image,
                "height": height,
                "width": width,
                "instances": instances,
                "file_name": f"noise_{index}.jpg",
                "image_id": index,
            }
        )
    return batch


def train_step(model, batch: list[dict]) -> dict[str, torch.Tensor]:
    """Losses of one step, after the backward pass."""
    model.train()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return losses


def tool(name: str) -> Path:
    """One of Detectron2's own tools, where tools/build_detectron2.py's wheel puts them."""
    return Path(sys.prefix) / "share" / "detectron2" / "tools" / name


def run_python(
    arguments: list, *, env: dict | None = None, cwd: Path | None = None, timeout: int = 300
) -> subprocess.CompletedProcess:
    """Run Python in a process of its own; output comes back as text, stderr apart."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), **(env or {})}
    # Only the installed package (or the checkout under test) is to be found, not the tests' path.
    environment = {k: v for k, v in environment.items() if v is not None}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=cwd or REPO,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def load_script(file: Path) -> ModuleType:
    """A script as a module with a name of its own; what lies beside it is found, as when it is run."""
    name = f"{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module
