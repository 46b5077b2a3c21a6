# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Transforms of the library albumentations (2.0, MIT licence; optional)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T

from ...errors import ConfigError
from ...messages import similar
from ...modes import same_random_numbers
from .arguments import number
from .sample import mask_box

__all__ = ["Albumentations", "AlbumentationsTransform"]

_INSTALL = "pip install 'albumentations>=2.0,<2.1'"


class Albumentations(T.Augmentation):
    """One transform of albumentations, by name.

    Transforms that move pixels need masks as pixels (INPUT.MASK_FORMAT "bitmask"); polygons are drawn
    first. Boxes are those of the moved masks. Left and right keypoints change places where the picture
    is mirrored. Random numbers come from a seed that NumPy draws, so that they are as reproducible as
    all others.
    """

    ignores_boxes = True

    def __init__(
        self,
        *,
        transform: str,
        arguments: Mapping[str, Any] | None = None,
        probability: float | None = None,
    ) -> None:
        """
        Args:
            transform: name of a class of albumentations, such as "CLAHE" or "Affine".
            arguments: its arguments.
            probability: its argument ``p``; None: the class's own default.

        Raises:
            ValueError: the transform or its arguments cannot work here.
            ConfigError: albumentations is missing, or it is another version or package.
        """
        super().__init__()
        library = import_albumentations()
        if arguments is not None and not isinstance(arguments, Mapping):
            raise ValueError(f"arguments is {arguments!r}; expected {{argument: value}}")
        given = dict(arguments or {})
        if probability is not None:
            given["p"] = number("probability", probability, 0, 1)
        self.transform, self.arguments, self.probability = transform, given, probability
        self._made = _make(library, transform, given)
        # Of what moves pixels, masks have to be moved, too.
        self.needs_bitmasks = not isinstance(self._made, library.ImageOnlyTransform)
        # Some transforms drop points that they lose, whatever remove_invisible says.
        points = library.KeypointParams(
            format="xy", remove_invisible=False, label_fields=["numbers"]
        )
        self._run = library.Compose(
            [self._made], keypoint_params=points if self.needs_bitmasks else None
        )

    def __repr__(self) -> str:
        return f"Albumentations({self.transform}, {self.arguments})"

    def pixel_problem(self, bands: int, pixel_type: str) -> str:
        """Why it cannot work on such pictures, which is found by a try on one; "" if it can."""
        if pixel_type != "uint8" and not self.needs_bitmasks:
            return (
                f"with {self.transform} changes values of pictures with 8 bits, but these have "
                f"{pixel_type}, of which it keeps 0 to 1 only; leave it out"
            )
        kind = np.uint8 if pixel_type == "uint8" else np.float32
        probe = np.full((96, 96, bands), 200, dtype=kind)
        always = Albumentations(transform=self.transform, arguments={**self.arguments, "p": 1.0})
        try:
            with same_random_numbers():
                out = always.get_transform(probe).apply_image(probe)
        except Exception as error:  # of OpenCV or NumPy, of many kinds
            reason = " ".join(str(error).split())[:200]
            return f"with {self.transform} fails on {bands} bands of {kind.__name__}: {reason}"
        if out.ndim != 3 or out.shape[2] != bands or (kind is np.float32 and out.max() <= 1):
            return f"with {self.transform} changes {bands} bands of {kind.__name__} to other values"
        return ""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return AlbumentationsTransform(
            self._run, int(np.random.randint(2**31)), image, self.needs_bitmasks
        )


class AlbumentationsTransform(T.Transform):
    """One call of albumentations, that is repeated with its seed for masks and points.

    Attributes:
        needs_bitmasks: it moves pixels.
    """

    def __init__(self, run, seed: int, image: np.ndarray, moves: bool) -> None:
        """
        Args:
            run: an ``albumentations.Compose``.
            seed: of this call.
            image: the picture before it; what is drawn may depend on its pixels.
            moves: pixels get other places.
        """
        super().__init__()
        self._run, self._seed, self._image = run, seed, np.ascontiguousarray(image)
        self.needs_bitmasks = self.cuts_objects = self.moves = moves

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        out = self._again()["image"]
        if out.dtype != img.dtype or out.ndim != img.ndim or out.shape[2:] != img.shape[2:]:
            raise ValueError(
                f"{self._name} makes {out.dtype} {out.shape} of {img.dtype} {img.shape}; expected "
                "values and channels of the same kind, which the model then normalises itself"
            )
        return out

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_segmentations([segmentation])[0]

    def apply_segmentations(self, segmentations: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As apply_segmentation; the picture is transformed once for all of them."""
        if not self.moves or not segmentations:
            return list(segmentations)
        return list(self._again(masks=[np.ascontiguousarray(s) for s in segmentations])["masks"])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        if not self.moves or not len(coords):
            return coords
        # There, a whole number is the middle of a pixel; in Detectron2 it is an edge.
        points = np.asarray(coords, dtype=np.float32) - 0.5
        done = self._again(keypoints=points, numbers=np.arange(len(points)))
        moved = np.full(points.shape, np.nan)
        moved[np.asarray(done["numbers"], dtype=int)] = np.reshape(done["keypoints"], (-1, 2))
        return moved + 0.5

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        """The boxes around what becomes of the pixels of boxes."""
        masks = []
        for x0, y0, x1, y1 in np.asarray(box, dtype=float).reshape(-1, 4):
            mask = np.zeros(self._image.shape[:2], dtype=np.uint8)
            mask[max(int(y0), 0) : math.ceil(y1), max(int(x0), 0) : math.ceil(x1)] = 1
            masks.append(mask)
        if not self.moves:
            return box
        return np.array([mask_box(m) for m in self.apply_segmentations(masks)]).reshape(-1, 4)

    def inverse(self) -> T.Transform:
        raise NotImplementedError

    def _again(self, **given) -> dict:
        self._run.set_random_seed(self._seed)
        if self.moves:  # which is when it asks for points
            given = {"keypoints": np.zeros((0, 2), np.float32), "numbers": [], **given}
        try:
            return self._run(image=self._image, **given)
        except Exception as error:  # each transform has kinds of its own
            height, width = self._image.shape[:2]
            raise ValueError(
                f"{self._name} cannot work on this picture of {width} x {height} pixels: "
                f"{type(error).__name__}: {error}"
            ) from error

    @property
    def _name(self) -> str:
        return type(self._run.transforms[0]).__name__


def import_albumentations():
    """The module.

    Raises:
        ConfigError: it is missing, or it is another version or package.
    """
    if importlib.util.find_spec("albumentations") is None:
        raise ConfigError(f"Albumentations needs the package albumentations: {_INSTALL}.")
    owners = importlib.metadata.packages_distributions().get("albumentations", [])
    if "albumentationsx" in (name.lower() for name in owners):
        raise ConfigError(
            "the installed albumentations is AlbumentationsX, whose licence is AGPL: pip uninstall "
            f"albumentationsx, then {_INSTALL}."
        )
    import albumentations

    if not albumentations.__version__.startswith("2.0."):
        raise ConfigError(
            f"albumentations has the version {albumentations.__version__}; expected 2.0: {_INSTALL}."
        )
    return albumentations


def _make(library, name, arguments: dict):
    made_of = getattr(library, name, None) if isinstance(name, str) else None
    kinds = (library.ImageOnlyTransform, library.DualTransform)
    if not isinstance(made_of, type) or not issubclass(made_of, kinds):
        known = [
            key
            for key, value in vars(library).items()
            if isinstance(value, type) and issubclass(value, kinds) and value not in kinds
        ]
        near = similar(str(name), known)
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise ValueError(
            f"transform is {name!r}; expected a class of albumentations that transforms single "
            f"pictures{hint}"
        )
    known = [*inspect.signature(made_of.__init__).parameters][1:]  # type: ignore[misc]
    for argument in arguments:
        if argument not in known:  # albumentations would only warn
            near = similar(argument, known)
            hint = f"; similar: {', '.join(near)}" if near else ""
            raise ValueError(
                f"{name} has no argument '{argument}'{hint}; there are: {', '.join(known)}"
            )
    made = made_of(**arguments)
    if made.targets_as_params:
        needed = ", ".join(made.targets_as_params)
        raise ValueError(
            f"transform is {name!r}, which needs {needed} besides the picture; expected one that needs "
            "nothing else"
        )
    if _asks_for_boxes(made):
        raise ValueError(
            f"transform is {name!r}, which needs boxes besides the picture; expected one that needs "
            "nothing else (Crop keeps objects)"
        )
    return made


def _asks_for_boxes(transform) -> bool:
    """Whether it looks at boxes to draw its numbers, which ``targets_as_params`` may not say."""
    picture = np.zeros((256, 256, 3), np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transform.get_params_dependent_on_data({"shape": picture.shape}, {"image": picture})
    except KeyError as error:
        return error.args == ("bboxes",)
    except Exception:  # it is another picture that it needs
        return False
    return False
