# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of images with any number of bands, checked against each other."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from ..messages import similar
from .check_values import unexpected
from .ranges import is_number

__all__ = ["FIRST_CONVOLUTIONS", "PIXEL_TYPES", "check_bands", "check_choice", "pixel_channels"]

PIXEL_TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
FIRST_CONVOLUTIONS = ("mean", "copy", "random")
_NODE = "MRCNN_EXT.DATA"


def pixel_channels(bands: Sequence[int], rgb_bands: Sequence[int]) -> list[int]:
    """Which channels to show as red, green and blue: those of ``rgb_bands``, or the first three.

    Fewer than three channels: the first one alone, which is shown as grey.
    """
    if rgb_bands:
        return [list(bands).index(band) for band in rgb_bands]
    return [0, 1, 2] if len(bands) >= 3 else [0]


def check_bands(cfg) -> None:
    """Check the keys of bands, and those of Detectron2 that have a number for each.

    Args:
        cfg: a config with the ``MRCNN_EXT`` node.

    Raises:
        ConfigError: names the key, its value and what was expected.
    """
    keys = cfg.MRCNN_EXT.DATA
    bands, rgb = keys.BANDS, keys.RGB_BANDS
    check_choice(bands, keys.PIXEL_TYPE, rgb)
    if keys.FIRST_CONVOLUTION not in FIRST_CONVOLUTIONS:
        expected = " or ".join(map(repr, FIRST_CONVOLUTIONS))
        raise unexpected(f"{_NODE}.FIRST_CONVOLUTION", keys.FIRST_CONVOLUTION, expected)
    if keys.FIRST_CONVOLUTION == "copy" and not rgb:
        raise ConfigError(
            f"{_NODE}.FIRST_CONVOLUTION is 'copy', which copies the filters of red, green and blue, "
            f"but {_NODE}.RGB_BANDS is []; expected three of {_NODE}.BANDS, {list(bands)}, in this "
            "order."
        )
    for name in ("PIXEL_MEAN", "PIXEL_STD"):
        values = cfg.MODEL[name]
        if not isinstance(values, (list, tuple)) or not all(map(is_number, values)):
            raise unexpected(
                f"MODEL.{name}", values, "a list of finite numbers, one for each channel"
            )
        if name == "PIXEL_STD" and any(value <= 0 for value in values):
            raise unexpected(
                f"MODEL.{name}",
                values,
                "numbers above 0, which pixels are divided by (1.0 for a band that is constant)",
            )
        if bands and len(values) != len(bands):
            raise ConfigError(
                f"MODEL.{name} has {len(values)} numbers, but {_NODE}.BANDS has {len(bands)} bands; "
                "expected one for each (python -m mrcnn_ext.data.stats prints them)."
            )
    if not bands:
        return
    if cfg.get("VIS_PERIOD", 0) > 0 and (len(bands) != 3 or keys.PIXEL_TYPE != "uint8"):
        raise ConfigError(
            f"VIS_PERIOD is {cfg.VIS_PERIOD}, but Detectron2 draws images of 3 bands with 8 bits only; "
            "expected 0 (MRCNN_EXT.LOG.IMAGES draws any)."
        )
    if cfg.TEST.AUG.ENABLED:
        raise ConfigError(
            "TEST.AUG.ENABLED is True, but test-time augmentation resizes by itself, and knows nothing "
            f"of {_NODE}.BANDS; expected False."
        )


def check_choice(bands, pixel_type, rgb_bands, *, lazy: bool = False) -> None:
    """Check which bands are read of files of which type.

    Args:
        lazy: they are arguments of the mapper, as a LazyConfig has them.

    Raises:
        ConfigError: names the key or argument, its value and what was expected.
    """

    def name(key: str) -> str:
        return f"the mapper's {key.lower()}" if lazy else f"{_NODE}.{key}"

    if not _are_numbers(bands):
        expected = "a list of different bands of the files, counted from 0, such as [0, 1, 2, 3]"
        raise unexpected(name("BANDS"), bands, expected)
    if pixel_type not in PIXEL_TYPES:
        near = similar(str(pixel_type), PIXEL_TYPES, most=1)
        hint = f" (similar: '{near[0]}')" if near else ""
        expected = f"one of {', '.join(PIXEL_TYPES)}{hint}"
        raise unexpected(name("PIXEL_TYPE"), pixel_type, expected)
    if rgb_bands and not (
        _are_numbers(rgb_bands) and len(rgb_bands) == 3 and set(rgb_bands) <= set(bands)
    ):
        expected = f"three of {name('BANDS')}, {list(bands)}: red, green and blue; or []"
        raise unexpected(name("RGB_BANDS"), rgb_bands, expected)
    if not bands and pixel_type != "uint8":
        raise ConfigError(
            f"{name('PIXEL_TYPE')} is '{pixel_type}', but {name('BANDS')} is [], with which Detectron2 "
            "reads images of 8 bits; expected the bands, such as [0] for grey."
        )


def _are_numbers(values) -> bool:
    if not isinstance(values, (list, tuple)) or len(set(map(str, values))) != len(values):
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
