# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predict instances on an image with a trained model, from a yaml config or a LazyConfig."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from ..checkpoint import load_weights
from ..coco.read import read_coco
from ..config.check import check_names
from ..data import register_datasets
from ..data.augmentation.by_band import BandInput
from ..data.image_file import ImageReader
from ..deploy import can_optimize, optimize, takes_min_mask_score
from ..errors import ConfigError, DataError, WeightsError

__all__ = ["Predictor", "named_weights", "reader_of"]


class Predictor:
    """Detectron2's DefaultPredictor (same results for yaml configs), also for LazyConfigs.

    The data sets of a config need not exist here; without them only the class names are unknown.

    Attributes:
        device: "cpu" or "cuda…", where the model is.
        model: in evaluation mode.
        reader: of images, as the model gets them.
        metadata: of the first data set of the config, test sets first, that is registered here and
            says its classes' names; without names if there is none.
    """

    def __init__(
        self,
        cfg,
        *,
        weights: str | None = None,
        device: str | None = None,
        trust_pickle: bool = False,
        optimized: bool = True,
        min_mask_score: float = 0.0,
    ) -> None:
        """
        Args:
            cfg: as :func:`~mrcnn_ext.config.load.load_config` returns it; is not changed.
            weights: checkpoint; None takes what the config names.
            device: "cpu", "cuda", "cuda:N"; None or "auto" is CUDA where there is one.
            trust_pickle: load the checkpoint even if that runs code from it.
            optimized: run :func:`mrcnn_ext.deploy.optimize`, which is faster and changes nothing but
                rounding; False, or a meta architecture that it does not know: the model as built.
            min_mask_score: detections that score less may get an empty mask, at no cost: they do if
                ``optimized``, and the RoI heads are Detectron2's or this package's.

        Raises:
            ConfigError: the device is not there, or the config contradicts itself.
            WeightsError: no weights are named, they cannot be read or could run code, a part of the
                model is missing or has another shape there, or they are NaN.
        """
        self.device = _device(device)
        lazy = not hasattr(cfg, "MODEL")
        weights = named_weights(cfg, weights)
        self.reader = reader_of(cfg)
        self.model: nn.Module
        (self._from_lazy if lazy else self._from_yaml)(cfg)
        load_weights(self.model, weights, complete=True, trust_pickle=trust_pickle)
        self.model.eval()
        if optimized and can_optimize(self.model):
            floor = min_mask_score if takes_min_mask_score(self.model) else 0.0
            self.model = optimize(self.model, dtype="float32", in_place=True, min_mask_score=floor)

    def _from_yaml(self, cfg) -> None:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.DEVICE = self.device
        if "MRCNN_EXT" in cfg:
            register_datasets(cfg, skip_missing=True)
        check_names(cfg)
        self.metadata = _metadata([*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN])
        # What is not registered here was where the model was trained.
        for key in ("TRAIN", "TEST"):
            registered = tuple(n for n in cfg.DATASETS[key] if n in DatasetCatalog)
            cfg.DATASETS[key] = registered
        self.model = build_model(cfg)
        self.input_format = cfg.INPUT.FORMAT
        self._augmentation: T.Augmentation = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )

    def _from_lazy(self, cfg) -> None:
        self.model = instantiate(cfg.model).to(self.device)
        mapper = cfg.dataloader.test.mapper
        self.input_format = mapper.image_format
        self._augmentation = T.AugmentationList([instantiate(a) for a in mapper.augmentations])
        names = cfg.dataloader.test.dataset.names
        self.metadata = _metadata([names] if isinstance(names, str) else list(names))

    @property
    def augmentation(self) -> T.Augmentation:
        """What images are resized with."""
        return self._augmentation

    @property
    def num_classes(self) -> int | None:
        """Of the model, if it says so."""
        return getattr(getattr(self.model, "roi_heads", None), "num_classes", None)

    def __call__(self, image: np.ndarray) -> dict:
        """
        Args:
            image: uint8 (H, W, 3), BGR; with bands, as ``reader`` gives it: (H, W, C).

        Returns:
            what the model gives for one image: {"instances": Instances} of size (H, W).
        """
        return self.predict_batch([image])[0]

    @torch.no_grad()
    def predict_batch(self, images: Sequence[np.ndarray]) -> list[dict]:
        """
        Args:
            images: as for a call. Where their sizes differ, the model pads them to a common one, which
                changes predictions a little.

        Returns:
            of each what a call returns.
        """
        return self.model([self._input(image) for image in images])

    def _input(self, image: np.ndarray) -> dict:
        height, width = image.shape[:2]
        inputs: T.AugInput
        if self.reader.by_band:
            inputs = BandInput(image)
        else:
            inputs = T.AugInput(image[:, :, ::-1] if self.input_format == "RGB" else image)
        self._augmentation(inputs)
        tensor = torch.as_tensor(inputs.image.astype("float32").transpose(2, 0, 1))
        return {"image": tensor, "height": height, "width": width}


def reader_of(cfg) -> ImageReader:
    """What reads images for the model of a yaml config, or of a LazyConfig.

    Raises:
        ConfigError: a key of bands has a value that cannot work.
    """
    if hasattr(cfg, "MODEL"):
        return ImageReader.from_config(cfg)
    mapper = cfg.dataloader.test.mapper
    return ImageReader(
        mapper.image_format,
        tuple(mapper.get("bands", ())),
        mapper.get("pixel_type", "uint8"),
        tuple(mapper.get("rgb_bands", ())),
    )


def _device(device: str | None) -> str:
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"--device '{device}': expected auto, cpu, cuda or cuda:N.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device '{device}': PyTorch finds no CUDA device here.")
    return str(device)


def named_weights(cfg, weights: str | None = None) -> str:
    """``weights``, or those that the config names.

    Raises:
        WeightsError: there are none, or no such file.
    """
    if not weights:
        weights = cfg.MODEL.WEIGHTS if hasattr(cfg, "MODEL") else cfg.train.init_checkpoint
    if not weights:
        raise WeightsError("no weights: the config names none; pass --weights FILE.")
    try:
        there = PathManager.isfile(weights)  # downloads what is a URL
    except Exception as error:  # of the network, or of a name that a catalog does not have
        raise WeightsError(f"no weights: '{weights}' cannot be had: {error}") from error
    if not there:
        raise WeightsError(f"no weights: there is no file '{weights}'.")
    return weights


def _metadata(names: list[str]) -> Metadata:
    known = [_with_classes(MetadataCatalog.get(name)) for name in names if name in DatasetCatalog]
    return next((m for m in known if m.get("thing_classes")), known[0] if known else Metadata())


def _with_classes(metadata: Metadata) -> Metadata:
    """With the names that Detectron2 adds when it loads the data set, where it has a COCO json."""
    if metadata.get("thing_classes") or not metadata.get("json_file"):
        return metadata
    try:
        categories = read_coco(metadata.json_file, annotated=False)["categories"]
        categories = sorted(categories, key=lambda category: category["id"])
        names = [category["name"] for category in categories]
    except (DataError, KeyError, TypeError):  # its json is not here, say
        return metadata
    ids = {category["id"]: index for index, category in enumerate(categories)}
    known = {**metadata.as_dict(), "thing_classes": names}
    return Metadata(**{**known, "thing_dataset_id_to_contiguous_id": ids})
