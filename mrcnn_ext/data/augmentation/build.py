# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Augmentations by name and arguments, as MRCNN_EXT.DATA.AUGMENTATIONS lists them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from ...errors import ConfigError
from ...messages import describe, similar
from ..image_file import ImageReader
from .albumentations_transform import Albumentations
from .blur import Blur
from .check_pixels import check_pixels
from .colour import Colour
from .copy_paste import CopyPaste
from .crop import Crop
from .cutout import Cutout
from .flip import horizontal_flip, vertical_flip
from .noise import Noise
from .resize import resize_shortest_edge
from .rotation import rotation
from .sample import SampleAugmentation
from .scale_jitter import ScaleJitter

__all__ = ["AUGMENTATIONS", "DEFAULT", "augmentations_from_config", "build_augmentations"]

# Name in a config -> what makes it of keyword arguments.
AUGMENTATIONS: dict[str, Callable] = {
    "Albumentations": Albumentations,
    "Blur": Blur,
    "Colour": Colour,
    "CopyPaste": CopyPaste,
    "Crop": Crop,
    "Cutout": Cutout,
    "HorizontalFlip": horizontal_flip,
    "Noise": Noise,
    "ResizeShortestEdge": resize_shortest_edge,
    "Rotation": rotation,
    "ScaleJitter": ScaleJitter,
    "VerticalFlip": vertical_flip,
}
# Stands for what Detectron2 makes of INPUT's keys.
DEFAULT = "Default"
# Arguments that are a value of pixels
_FILLS = {"CopyPaste": "pad_value", "Cutout": "fill", "ScaleJitter": "pad_value"}
_KEY = "MRCNN_EXT.DATA.AUGMENTATIONS"

Step = "T.Augmentation | Transform | SampleAugmentation"


def augmentations_from_config(cfg) -> list:
    """The augmentations of training: those of the key, or Detectron2's if it is empty.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.

    Returns:
        of Detectron2's augmentations and of :class:`SampleAugmentation`, in their order.

    Raises:
        ConfigError: an entry cannot be used; names it, its value and what was expected.
    """
    entries = cfg.MRCNN_EXT.DATA.AUGMENTATIONS
    default = default_augmentations(cfg)
    if not entries:
        return default
    reader = ImageReader.from_config(cfg)
    wide = reader.by_band and reader.pixel_type != "uint8"
    built = build_augmentations(
        entries,
        image_format=reader.channel_order,
        default=default,
        pixel_mean=list(cfg.MODEL.PIXEL_MEAN) if wide else None,
    )
    if reader.by_band:
        check_pixels(built, reader, _KEY)
    if cfg.MODEL.MASK_ON:
        _check_masks(entries, built, cfg.INPUT.MASK_FORMAT)
    if cfg.MODEL.LOAD_PROPOSALS and any(isinstance(b, SampleAugmentation) for b in built):
        raise ConfigError(
            f"{_KEY} has CopyPaste, which knows nothing of the proposals that MODEL.LOAD_PROPOSALS "
            "asks for; expected one of the two."
        )
    return built


def default_augmentations(cfg) -> list:
    """What Detectron2's mapper makes of INPUT's keys for training."""
    built = utils.build_augmentation(cfg, True)
    if cfg.INPUT.CROP.ENABLED:
        built.insert(0, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
    return built


def build_augmentations(
    entries: Sequence,
    *,
    image_format: str = "BGR",
    default: Sequence = (),
    pixel_mean: Sequence[float] | None = None,
) -> list:
    """Make augmentations of names and arguments.

    Args:
        entries: each a name of AUGMENTATIONS, or [name, {argument: value}].
        image_format: order of the channels.
        default: what "Default" stands for.
        pixel_mean: a value for each band, with which holes and margins are filled where an entry names
            none; None: with 128, the middle of 8 bits.

    Raises:
        ConfigError: an entry cannot be used; names it, its value and what was expected.
    """
    built: list = []
    for index, entry in enumerate(entries):
        where = f"{_KEY}[{index}]"
        name, arguments = _parts(where, entry)
        if name == DEFAULT:
            if arguments:
                raise ConfigError(
                    f"{where}: 'Default' takes no arguments: INPUT's keys are its own."
                )
            built += default
            continue
        if name not in AUGMENTATIONS:
            near = similar(name, [*AUGMENTATIONS, DEFAULT])
            raise ConfigError(
                f"{where} is '{name}'; "
                + (f"similar: {', '.join(near)}; " if near else "")
                + f"there are: {', '.join(sorted([*AUGMENTATIONS, DEFAULT]))}."
            )
        filled = _FILLS.get(name)
        if pixel_mean is not None and filled is not None and filled not in arguments:
            arguments[filled] = pixel_mean
        built.append(_built(f"{where} ({name})", AUGMENTATIONS[name], arguments, image_format))
    return built


def _parts(where: str, entry) -> tuple[str, dict]:
    if isinstance(entry, str):
        return entry, {}
    if (
        isinstance(entry, Sequence)
        and len(entry) == 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], Mapping)
        and all(isinstance(key, str) for key in entry[1])
    ):
        return entry[0], dict(entry[1])
    raise ConfigError(
        f"{where} is {describe(entry)}; expected a name, or [name, {{argument: value}}]."
    )


def _built(where: str, make: Callable, arguments: dict, image_format: str):
    signature = inspect.signature(make)
    known = [name for name in signature.parameters if name != "image_format"]
    for name in arguments:
        if name not in known:
            near = similar(name, known)
            hint = f"; similar: {', '.join(near)}" if near else ""
            raise ConfigError(
                f"{where} has no argument '{name}'{hint}; there are: {', '.join(known)}."
            )
    if "image_format" in signature.parameters:
        arguments = {**arguments, "image_format": image_format}
    try:
        signature.bind(**arguments)
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}.") from error


def _check_masks(entries: Sequence, built: Sequence, mask_format: str) -> None:
    if mask_format == "bitmask":
        return
    for step in built:
        if getattr(step, "needs_bitmasks", False):
            name = type(step).__name__
            other = ", or cut_masks: false" if name == "Cutout" else ""
            raise ConfigError(
                f"INPUT.MASK_FORMAT is '{mask_format}', but {name} ({_KEY}) works on pixels of masks; "
                f"expected 'bitmask'{other}. Polygons in the data set are drawn then."
            )
