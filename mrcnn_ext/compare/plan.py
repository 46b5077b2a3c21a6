# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The plan of a comparison: heads, seeds, schedule, and the config of each training."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import MetadataCatalog

from ..config.load import load_config
from ..config.schedule import short_schedule
from ..data import register_datasets
from ..errors import ConfigError
from ..messages import similar
from .kind import HeadKind
from .kinds import MASK

__all__ = ["MODES", "Plan", "Variant", "flat", "parse_variant"]

MODES = ("frozen", "end_to_end")


@dataclass(frozen=True)
class Variant:
    """A head to compare, with its own config keys.

    Attributes:
        name: shown in tables.
        head: registered name; "" takes the config's.
        config: yaml file; "" takes the comparison's base config.
        opts: KEY VALUE … for this variant only.
    """

    name: str
    head: str = ""
    config: str = ""
    opts: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name as a folder can have it."""
        return re.sub(r"[^\w.+-]+", "_", self.name).strip("_")


def parse_variant(text: str, kind: HeadKind = MASK) -> Variant:
    """Parse ``HEAD``, ``NAME=HEAD`` or ``NAME=FILE.yaml``, each optionally with ``:KEY VALUE …``; or
    ``NAME:KEY VALUE …`` for the base config's head.

    Raises:
        ConfigError: it is none of these, or names a head that nobody registered.
    """
    source, _, tail = text.partition(":")
    name, _, target = source.rpartition("=")
    name, target = name.strip(), target.strip()
    opts = tuple(shlex.split(tail))
    if not target or len(opts) % 2:
        raise ConfigError(
            f"--heads '{text}': expected HEAD, NAME=HEAD, NAME=FILE.yaml or NAME:\"KEY VALUE …\"."
        )
    if target.endswith((".yaml", ".yml", ".py")):
        if target.endswith(".py"):
            raise ConfigError(f"--heads '{text}': a comparison takes yaml configs only.")
        return Variant(name or Path(target).stem, config=target, opts=opts)
    if target in kind.registry:
        return Variant(name or _default_name(target, opts), head=target, opts=opts)
    if name or not opts or target.endswith("Head"):
        known = sorted(key for key, _ in kind.registry)
        hint = "".join(f" Did you mean {near}?" for near in similar(target, known, most=1))
        raise ConfigError(
            f"--heads '{text}': nobody registered a {kind.name} head '{target}'.{hint} There are: "
            f"{', '.join(known)}. Heads of your own: --import FILE_OR_MODULE."
        )
    return Variant(target, opts=opts)


def _default_name(head: str, opts: Sequence[str]) -> str:
    own = [f"{key.rpartition('.')[2]} {value}" for key, value in zip(opts[::2], opts[1::2])]
    return " ".join([head, *own])


@dataclass(frozen=True)
class Plan:
    """What a comparison trains, and how.

    Attributes:
        base: yaml config of the detector and of all that the heads share.
        variants: the heads; the first is the baseline.
        output: folder of the comparison.
        seeds: number of trainings of each head, with the seeds 1, 2, …
        iterations: of each training; None takes the base config's schedule.
        mode: "frozen" or "end_to_end", see docs/compare.md.
        detector: weights of the frozen detector; "" trains it first.
        detector_iterations: of that training; None takes the base config's schedule.
        held_out: names or ids of classes whose masks train no head.
        opts: KEY VALUE … for all trainings.
        imports: modules or files that register heads and data sets.
        jobs: trainings that run at a time.
        kind: of the compared heads.
        trust_pickle: load weights even if that runs code from their file.
        optimized: evaluate models as :func:`mrcnn_ext.deploy.optimize` makes them.
    """

    base: str
    variants: tuple[Variant, ...]
    output: Path
    seeds: int = 1
    iterations: int | None = None
    mode: str = "frozen"
    detector: str = ""
    detector_iterations: int | None = None
    held_out: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    jobs: int = 1
    kind: HeadKind = MASK
    trust_pickle: bool = False
    optimized: bool = True

    @property
    def baseline(self) -> Variant:
        return self.variants[0]

    @property
    def detector_folder(self) -> Path:
        return self.output / "detector"

    def folder(self, variant: Variant, seed: int) -> Path:
        return self.output / "runs" / variant.slug / f"seed{seed}"

    def runs(self) -> list[tuple[Variant, int]]:
        """All runs, seed by seed, so that finished runs form pairs."""
        return [(v, seed) for seed in range(1, self.seeds + 1) for v in self.variants]

    # ---- Configs -----------------------------------------------------------------------------------

    def base_config(self, iterations: int | None = None):
        """Load the base config with the overrides that all trainings share."""
        cfg = load_config(self.base, [*self._schedule(self.base, iterations), *self.opts])
        register_datasets(cfg)
        return cfg

    def detector_config(self):
        """Config that trains the frozen detector: the base config without held-out masks."""
        cfg = self.base_config(self.detector_iterations)
        head = cfg.MODEL[self.kind.node]
        if self.held_out and not self.kind.is_of_this_package(head.NAME):
            head.NAME = self.kind.plain_head  # knows which classes train it; else the same head
        self._hold_out(cfg, "detector")
        cfg.SEED = 1
        cfg.OUTPUT_DIR = str(self.detector_folder)
        return cfg

    def config(self, variant: Variant, seed: int):
        """Complete config of one training.

        Raises:
            ConfigError: it does not load, or its head cannot leave classes out.
        """
        source = variant.config or self.base
        shared = [*self._schedule(source, self.iterations), *self.opts]
        if variant.head:
            shared += [f"MODEL.{self.kind.node}.NAME", variant.head]
        cfg = load_config(source, shared)
        register_datasets(cfg)
        try:
            cfg.merge_from_list(list(variant.opts))
        except (KeyError, AssertionError, ValueError) as error:
            raise ConfigError(f"--heads '{variant.name}': {error}") from error
        self.kind.complete(cfg, variant.opts)
        self._hold_out(cfg, variant.slug)
        cfg.SEED = seed
        cfg.OUTPUT_DIR = str(self.folder(variant, seed))
        return cfg

    def held_out_ids(self, cfg) -> list[int]:
        """Contiguous ids of the held-out classes.

        Raises:
            ConfigError: a name is not one of the training set, or no class is left.
        """
        names = list(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") or [])
        total = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        ids = set()
        for item in self.held_out:
            if item in names:
                ids.add(names.index(item))
            elif item.isdigit() and int(item) < total:
                ids.add(int(item))
            else:
                raise ConfigError(
                    f"--held-out: no class '{item}'; expected names of {names} or ids 0 … {total - 1}."
                )
        if len(ids) >= total:
            raise ConfigError("--held-out names all classes; none would train the heads.")
        return sorted(ids)

    def settings(self) -> dict:
        """Settings that all runs in the folder share."""
        return {
            **self.kind.settings,
            "mode": self.mode,
            "held out": list(self.held_out),
            "detector": self.detector,
            "detector iterations": self.detector_iterations if self.mode == "frozen" else None,
            "imports": list(self.imports),
            "config": flat(self.base_config(self.iterations)),
        }

    def _hold_out(self, cfg, name: str) -> None:
        if self.held_out:
            self.kind.hold_out(cfg, self.held_out_ids(cfg), name)

    @staticmethod
    def _schedule(source: str, iterations: int | None) -> list[str]:
        if iterations is None:
            return []
        return short_schedule(iterations, load_config(source).SOLVER.WARMUP_ITERS)


def flat(cfg, prefix: str = "") -> dict[str, object]:
    """All keys of a config as "A.B.C" -> value; tuples become lists, as in json."""
    out: dict[str, object] = {}
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = _plain(value)
    return out


def _plain(value):
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
