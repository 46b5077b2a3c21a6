# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The files of a division: a json for each part, and a yaml that names them."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["part_content", "yaml_text"]


def part_content(content: dict, images: list) -> dict:
    """The data set of some images only; ids, categories and everything else stay."""
    ids = set(images)
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
    }


def yaml_text(files: dict[str, Path], train: str, test: str, images: Path) -> str:
    """A config with the data sets, for ``_BASE_`` or to be merged.

    Args:
        files: the json of each data set, by its name.
        train, test: names for DATASETS.
        images: the folder of the images.
    """
    entries = "".join(
        f"      - [{_quoted(name)}, {_quoted(file)}, {_quoted(images)}]\n"
        for name, file in files.items()
    )
    return (
        "# Written by python -m mrcnn_ext.data.split: [name, json, folder of the images].\n"
        f"MRCNN_EXT:\n  DATA:\n    DATASETS:\n{entries}"
        f"DATASETS:\n  TRAIN: [{_quoted(train)}]\n  TEST: [{_quoted(test)}]\nVERSION: 2\n"
    )


def _quoted(value) -> str:
    return json.dumps(str(value), ensure_ascii=False)
