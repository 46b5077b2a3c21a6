# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A kind of head to compare: where it is in a model, how it is measured and drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.registry import Registry
from torch import nn

from ..visualization.primitives import View
from .evaluation import HeadEvaluation, evaluate_run
from .objects import TrueBox
from .results import Comparison
from .tables import NamedTable

__all__ = ["HeadKind", "Painter"]

# Draws an object in a view of its image: (crop, view, object, the head's answer or None for the truth).
Painter = Callable[[np.ndarray, View, Any, Any], np.ndarray]


class HeadKind(ABC):
    """A kind of head that can be compared.

    Attributes:
        name: of ``--part`` and in sentences: "mask head".
        settings: its entries in comparison.json.
        module: its attribute in RoI heads.
        switch: its key in MODEL.
        node: its node in MODEL.
        field: of the Instances that it fills in.
        registry: of its names.
        keys: beginnings of the keys in which frozen heads may differ.
        fixed: of these, keys that are the detector's.
        own_keys: beginning of the keys that only heads of this package read.
        base_class: of the heads of this package.
        plain_head: the one of them that is most like Detectron2's.
        can_hold_out: whether it can be trained without some classes.
        answers: file in a run's folder with what the head said at the true boxes.
        ap: metric and title of its AP, for plots.
        measures: two columns of objects.json with their titles, for plots; the second is also plotted
            over cost.
        one_scale: whether both have one axis.
        judged_by: column and title by which objects for pictures are chosen.
        colors, legend: of its pictures: kind -> "#rrggbb", and (kind, text).
    """

    name: str
    settings: Mapping[str, str] = {}
    module: str
    switch: str
    node: str
    field: str
    registry: Registry
    keys: tuple[str, ...]
    fixed: tuple[str, ...]
    own_keys: str
    base_class: type
    plain_head: str
    can_hold_out: bool = False
    answers: str
    ap: tuple[str, str]
    measures: tuple[tuple[str, str], tuple[str, str]]
    one_scale: bool
    judged_by: tuple[str, str]
    colors: Mapping[str, str]
    legend: tuple[tuple[str, str], ...]

    def owns(self, name: str) -> bool:
        """Whether a parameter, buffer or module of a model, by its name, belongs to the head."""
        return self.module in name.split(".")

    def head(self, model: nn.Module) -> nn.Module:
        """The module that is compared."""
        return getattr(model.roi_heads, self.module)

    def is_of_this_package(self, head: str) -> bool:
        """Whether a registered head has the switches under ``own_keys``."""
        return head in self.registry and issubclass(self.registry.get(head), self.base_class)

    def complete(self, cfg, given: Sequence[str]) -> None:
        """Set keys that follow from the head, but none of the ``given`` ones."""
        return None

    def hold_out(self, cfg, classes: Sequence[int], name: str) -> None:
        """Let no head be trained by these classes; ``name``: of the variant, for messages."""
        raise NotImplementedError(f"{self.name} heads cannot leave classes out")

    @abstractmethod
    def isolate(self, cfg) -> None:
        """Switch off other heads, unless this one needs them."""

    @abstractmethod
    def evaluation(self, cfg, folder: Path) -> HeadEvaluation:
        """Of one run on the config's test set.

        Raises:
            ConfigError: settings do not fit the data set.
        """

    def evaluate(
        self,
        model: nn.Module,
        cfg,
        folder: Path,
        *,
        seed: int,
        variant: str,
        optimized: bool = True,
    ) -> dict:
        """Evaluate one run, see :func:`~.evaluation.evaluate_run`."""
        labels = {"variant": variant, "seed": seed, "head": cfg.MODEL[self.node].NAME}
        return evaluate_run(
            model,
            cfg,
            folder,
            self.evaluation(cfg, folder),
            objects_of=self.objects,
            module=self.head(model),
            answers=self.answers,
            labels=labels,
            optimized=optimized,
        )

    @abstractmethod
    def objects(self, record: dict) -> Sequence[TrueBox]:
        """What is measured in an image of a data set in Detectron2's format."""

    def reference(self, folder: Path, cfg, records: Sequence[dict]) -> dict | None:
        """Measures of an answer without a head, as columns of objects.json; None if there is none."""
        return None

    @abstractmethod
    def tables(self, c: Comparison, reference: dict | None = None) -> list[NamedTable]:
        """All tables of a comparison, the main one first."""

    @abstractmethod
    def painter(self, dataset: str) -> Painter:
        """Of the objects of a registered data set."""
