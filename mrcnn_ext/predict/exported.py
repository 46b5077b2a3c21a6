# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict with a model that ``python -m mrcnn_ext.export`` wrote, and export one that predicts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from ..data.augmentation.by_band import BandInput
from ..data.image_file import ImageReader
from ..deploy import ModelInput, OnnxModel, RunnerError
from ..deploy.onnx_runner import Detections
from ..errors import ConfigError
from ..skeletons import Skeleton, SkeletonSet
from ..structures import DeferredMaskInstances, DeferredMasks
from .predictor import Predictor

__all__ = ["ExportedPredictor", "detections_of", "input_of"]


class ExportedPredictor:
    """:class:`Predictor` on an exported model: the same calls, the same results up to rounding.

    Images are resized by Detectron2's own transform, so that both see the same pixels.

    Attributes:
        device: "cpu" or "cuda", where it runs.
        metadata: of the classes, as the file has them.
        num_classes: of the model.
    """

    def __init__(self, path: str | os.PathLike, *, device: str | None = None) -> None:
        """
        Args:
            path: the file.
            device: "cpu" or "cuda"; None or "auto" is what this onnxruntime has.

        Raises:
            ConfigError: the file cannot be used, or the device is not there.
            ImportError: onnxruntime is not installed.
        """
        providers = _providers(device)
        self.device = "cuda" if len(providers) > 1 else "cpu"
        try:
            self.model = OnnxModel(path, threads=torch.get_num_threads(), providers=providers)
        except RunnerError as error:
            missing = isinstance(error.__cause__, ImportError)
            raise (ImportError if missing else ConfigError)(str(error)) from error
        self.num_classes: int = self.model.info["num_classes"]
        self.metadata = _metadata(self.model.info)
        rule = self.model.info["resize"]
        size = [rule["min_size"]] * 2
        self._augmentation = T.ResizeShortestEdge(size, rule["max_size"])
        self.reader = ImageReader.from_info(self.model.info)

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[dict]:
        """As Predictor's; one image after the other, as the file takes one."""
        return [self(image) for image in images]

    def __call__(self, image: np.ndarray) -> dict:
        """As Predictor's."""
        if self.model.info["resize"]["in_graph"]:
            return {"instances": _instances(self.model(image))}
        height, width = image.shape[:2]
        inputs: T.AugInput
        if self.reader.by_band:
            inputs = BandInput(image)
        else:
            is_rgb = self.model.info["pixel_format"] == "RGB"
            inputs = T.AugInput(image[:, :, ::-1] if is_rgb else image)
        self._augmentation(inputs)
        tensor = np.ascontiguousarray(inputs.image.transpose(2, 0, 1), dtype=np.float32)
        return {"instances": _instances(self.model.run_resized(tensor, (height, width)))}


def _providers(device: str | None) -> list[str]:
    import importlib.util

    cuda = "CUDAExecutionProvider"
    if device in (None, "auto"):
        if importlib.util.find_spec("onnxruntime") is None:
            return ["CPUExecutionProvider"]  # the runner says that it is missing
        import onnxruntime

        found = [cuda] if cuda in onnxruntime.get_available_providers() else []
        return [*found, "CPUExecutionProvider"]
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if device == "cuda":
        return [cuda, "CPUExecutionProvider"]
    raise ConfigError(f"--device '{device}': with --model expected auto, cpu or cuda.")


def _instances(found: Detections) -> Instances:
    boxes = torch.from_numpy(found.boxes)
    result = DeferredMaskInstances(found.image_size)
    result.pred_boxes = Boxes(boxes)
    result.scores = torch.from_numpy(found.scores)
    result.pred_classes = torch.from_numpy(found.classes)
    for name in ("mask_scores", "keypoints"):
        value = getattr(found, name)
        if value is not None:
            result.set(name.replace("keypoints", "pred_keypoints"), torch.from_numpy(value))
    if found.small_masks is not None:
        masks = torch.from_numpy(np.ascontiguousarray(found.small_masks))
        deferred = DeferredMasks(masks, boxes, found.image_size, found.mask_threshold)
        result.set("pred_masks", deferred)
    return result


def _metadata(info: dict[str, Any]) -> Metadata:
    fields: dict[str, Any] = {}
    if info["classes"] is not None:
        fields["thing_classes"] = info["classes"]
    if info["category_ids"] is not None:
        ids = info["category_ids"]
        fields["thing_dataset_id_to_contiguous_id"] = {k: i for i, k in enumerate(ids)}
    metadata = Metadata(**fields)
    if info["skeletons"] is not None:
        _skeleton_set(info["skeletons"]).set_metadata(metadata)
    return metadata


def _skeleton_set(content: dict[str, Any]) -> SkeletonSet:
    skeletons = [
        Skeleton(s["name"], s["keypoints"], s["flip_map"], s["edges"], s["sigmas"])
        for s in content["skeletons"]
    ]
    index = {skeleton.name: i for i, skeleton in enumerate(skeletons)}
    of_class = [index.get(entry["skeleton"]) for entry in content["classes"]]
    names = [entry["name"] for entry in content["classes"]]
    return SkeletonSet(tuple(skeletons), tuple(of_class), tuple(names))


def input_of(predictor: Predictor, classes: list[str] | None = None) -> ModelInput:
    """What an export needs to know besides the model.

    Args:
        predictor: of the config.
        classes: names, in place of those of its data set.

    Raises:
        ConfigError: images are prepared in a way that a file cannot tell.
        DataError: the data set's keypoints contradict each other.
    """
    min_size, max_size = _resizing(predictor.augmentation)
    metadata = predictor.metadata
    names = classes or metadata.get("thing_classes")
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    number = int(predictor.num_classes or 0)
    if classes is None and names is not None and len(names) != number:
        names = ids = None  # of another data set than the one that the model was trained on
    skeletons = SkeletonSet.from_metadata(metadata)
    keypoints = getattr(predictor.model.roi_heads, "keypoint_on", False)
    if not keypoints or (skeletons and skeletons.num_classes not in (0, number)):
        skeletons = None
    if ids and sorted(ids.values()) != list(range(number)):
        ids = None
    reader = getattr(predictor, "reader", ImageReader())
    return ModelInput(
        predictor.input_format,
        min_size,
        max_size,
        names,
        None if not ids else [original for original, _ in sorted(ids.items(), key=lambda i: i[1])],
        skeletons,
        reader.bands,
        reader.pixel_type,
        reader.rgb_bands,
    )


def _resizing(augmentation: T.Augmentation) -> tuple[int, int]:
    parts = list(getattr(augmentation, "augs", [augmentation]))
    if not parts:
        return 0, 0
    part = parts[0]
    is_resize = len(parts) == 1 and type(part) is T.ResizeShortestEdge
    sizes = set(np.ravel(part.short_edge_length).tolist()) if is_resize else set()
    if len(sizes) != 1:
        what = ", ".join(type(item).__name__ for item in parts)
        raise ConfigError(
            f"dataloader.test.mapper.augmentations is [{what}]; a model can be exported with one "
            "ResizeShortestEdge of one size, or with none."
        )
    return int(sizes.pop()), int(part.max_size)


def detections_of(instances: Instances) -> tuple[Detections, np.ndarray | None]:
    """A model's output in the form of the runner's, and its masks (N, height, width), to compare."""

    def array(name: str) -> np.ndarray | None:
        return instances.get(name).cpu().numpy() if instances.has(name) else None

    found = Detections(
        instances.image_size,
        instances.pred_boxes.tensor.cpu().numpy(),
        instances.scores.cpu().numpy(),
        instances.pred_classes.cpu().numpy(),
        mask_scores=array("mask_scores"),
        keypoints=array("pred_keypoints"),
    )
    return found, array("pred_masks")
