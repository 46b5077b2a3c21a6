# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights of objects by their class, for losses of boxes and masks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import Tensor, nn

from ..config.check_class_weights import (
    CLASS_WEIGHT_RULES,
    check_class_names,
    split_class_weights,
)
from ..data.class_counts import count_instances
from ..errors import ConfigError, DataError
from ..messages import shorten

__all__ = [
    "ClassWeights",
    "class_balanced_weights",
    "class_weights_from_config",
    "inverse_sqrt_weights",
]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)


class ClassWeights(nn.Module):
    """A weight for each class, and 1 for background.

    Names are looked up and objects counted when the first loss is computed, so that a trained model
    needs no training data. Weights are no part of the state_dict: checkpoints load with and without.
    """

    weights: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        rule: str = "",
        factors: Mapping[str, float] | Sequence[float] = (),
        beta: float = 0.999,
        dataset_names: str | Sequence[str] = (),
        loss: str = "loss",
    ) -> None:
        """
        Args:
            num_classes: K.
            rule: by counts of objects, whose mean over the classes that have objects is 1.
                "inverse_sqrt": :func:`inverse_sqrt_weights`; "class_balanced":
                :func:`class_balanced_weights`; "": all have 1.
            factors: weights of some classes by their names, in the place of the rule's; or K weights.
            beta: of "class_balanced".
            dataset_names: registered training sets, which have the names and the objects.
            loss: what messages call the loss.

        Raises:
            ConfigError: an argument is out of range, one is missing, or a name is that of no class,
                as far as the classes are known yet.
        """
        super().__init__()
        if rule and rule not in CLASS_WEIGHT_RULES:
            raise ConfigError(
                f"the rule of class weights is {rule!r}; expected '' or one of "
                f"{', '.join(CLASS_WEIGHT_RULES)}."
            )
        self.rule, self.beta, self.loss = rule, beta, loss
        self.dataset_names = (
            [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
        )
        by_name = isinstance(factors, Mapping)
        self.factors = {str(k): float(v) for k, v in factors.items()} if by_name else {}  # type: ignore[union-attr]
        weights = torch.ones(num_classes + 1)
        if not by_name and len(factors):
            if len(factors) != num_classes:
                raise ConfigError(
                    f"the weights of the {loss} are {len(factors)} numbers; expected one for each of "
                    f"{num_classes} classes."
                )
            weights[:-1] = torch.tensor(list(factors), dtype=torch.float32)
        _check_numbers(weights.tolist() + list(self.factors.values()), loss)
        self._is_ready = not (rule or self.factors)
        if not self._is_ready and not self.dataset_names:
            raise ConfigError(
                f"the weights of the {loss} need dataset_names (DATASETS.TRAIN), which have the names "
                "and the objects of classes."
            )
        if self.factors:
            known = MetadataCatalog.get(self.dataset_names[0]).get("thing_classes")
            self._check_names(known or ())
        self.register_buffer("weights", weights, persistent=False)

    @torch.jit.unused  # a scripted model has no losses
    def forward(self, classes: Tensor) -> Tensor:
        """
        Args:
            classes: (R,) int64 in 0 … K; K is background.

        Returns:
            (R,) float32.

        Raises:
            ConfigError: in the first call, a name that is of no class.
            DataError: in the first call, the data sets have no objects or some of other classes.
        """
        if not self._is_ready:
            self._fill()
        return self.weights[classes]

    def _fill(self) -> None:
        weights = self._by_counts() if self.rule else [1.0] * (len(self.weights) - 1)
        if self.factors:
            names = self._class_names()
            for name, factor in self.factors.items():
                weights[names.index(name)] = factor
        # A new tensor: the first loss may be one of validation, which restores the buffers that it had.
        self.weights = torch.tensor([*weights, 1.0]).to(self.weights)
        self._is_ready = True
        if comm.is_main_process():
            known = MetadataCatalog.get(self.dataset_names[0]).get("thing_classes")
            listed = [f"{c} {w:.3g}" for c, w in zip(known or range(len(weights)), weights)]
            logger.info(f"Weights of the {self.loss}: {shorten(listed, 20)}.")

    def _by_counts(self) -> list[float]:
        names, sets = self.dataset_names, ", ".join(map(repr, self.dataset_names))
        counts = count_instances(names, len(self.weights) - 1)
        if not any(counts):
            raise DataError(f"{sets}: no objects, by whose number the {self.loss} is weighted.")
        classes = MetadataCatalog.get(names[0]).get("thing_classes") or range(len(counts))
        missing = [f"'{c}'" for c, n in zip(classes, counts) if not n]
        if missing and comm.is_main_process():
            logger.warning(
                f"The {self.loss}, weighted by class, counts no object of {shorten(missing, 20)} in "
                f"{sets}: the model cannot learn " + ("it." if len(missing) == 1 else "them.")
            )
        if self.rule == "inverse_sqrt":
            return inverse_sqrt_weights(counts)
        return class_balanced_weights(counts, self.beta)

    def _class_names(self) -> list[str]:
        metadata = MetadataCatalog.get(self.dataset_names[0])
        if not metadata.get("thing_classes"):
            DatasetCatalog.get(self.dataset_names[0])  # which fills the metadata of a json
        names = [str(name) for name in metadata.get("thing_classes") or ()]
        if not names:
            raise ConfigError(
                f"the weights of the {self.loss} name classes, but the metadata of "
                f"'{self.dataset_names[0]}' have no thing_classes."
            )
        if len(names) != len(self.weights) - 1:
            raise ConfigError(
                f"the weights of the {self.loss} are for {len(self.weights) - 1} classes "
                f"(num_classes), but '{self.dataset_names[0]}' has {len(names)}: {shorten(names)}."
            )
        self._check_names(names)
        return names

    def _check_names(self, classes: Sequence[str]) -> None:
        if classes:
            names = [str(name) for name in classes]
            check_class_names(list(self.factors), names, f"the {self.loss}, weighted by class,")


def class_weights_from_config(cfg, node: str) -> ClassWeights | None:
    """What ``CLASS_WEIGHTS`` of a head says; None: all objects weigh the same.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.
        node: "BOX_HEAD", whose CLS_LOSS "class_balanced" is a rule, too, or "MASK_HEAD".

    Raises:
        ConfigError: an entry cannot be used.
    """
    keys = cfg.MRCNN_EXT[node]
    entries = keys.get("CLASS_WEIGHTS", [])  # configs of older versions lack it
    rule, factors = split_class_weights(entries, f"MRCNN_EXT.{node}.CLASS_WEIGHTS")
    if keys.get("CLS_LOSS") == "class_balanced":
        rule = "class_balanced"
    if not (rule or factors) or not cfg.DATASETS.TRAIN:  # without them, nothing is trained
        return None
    return ClassWeights(
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        rule=rule,
        factors=factors,
        beta=cfg.MRCNN_EXT.BOX_HEAD.CLASS_BALANCED_BETA,
        dataset_names=tuple(cfg.DATASETS.TRAIN),
        loss="mask loss" if node == "MASK_HEAD" else "classification loss",
    )


def class_balanced_weights(counts: Sequence[int], beta: float) -> list[float]:
    """Weights (1 - beta) / (1 - beta^n), of which classes with objects have the mean 1.

    A class without objects gets the weight of one with a single object. It is no part of the mean:
    its large weight, which no training example has, would make all others small. (Cui et al., CVPR
    2019, weights by the effective number of objects.)

    Args:
        counts: n, of each class.
        beta: 0 gives all the same weight; near 1, weights go as 1 / n.

    Raises:
        ConfigError: beta is not in 0 … 1, 1 excluded.
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"beta is {beta!r}; expected a number, at least 0 and less than 1.")
    return _with_mean_1([(1 - beta) / (1 - beta ** max(n, 1)) for n in counts], counts)


def inverse_sqrt_weights(counts: Sequence[int]) -> list[float]:
    """Weights 1 / √n, of which classes with objects have the mean 1.

    Args:
        counts: n, of each class; one without objects counts as one with a single object, as for
            :func:`class_balanced_weights`.
    """
    return _with_mean_1([1 / math.sqrt(max(n, 1)) for n in counts], counts)


def _with_mean_1(raw: list[float], counts: Sequence[int]) -> list[float]:
    present = [weight for weight, n in zip(raw, counts) if n]
    mean = sum(present) / len(present) if present else 1.0
    return [weight / mean for weight in raw]


def _check_numbers(weights: Sequence[float], loss: str) -> None:
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise ConfigError(
                f"a weight of the {loss} is {weight!r}; expected a number, 0 or more."
            )
