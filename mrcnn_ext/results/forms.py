# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The forms that results can be written in, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..messages import similar
from .coco import write_coco, write_coco_polygons
from .csv_rows import write_csv
from .cvat import write_cvat
from .label_studio import write_label_studio, write_label_studio_polygons
from .options import FormOptions
from .predictions import Predictions

__all__ = ["FORMS", "PER_IMAGE", "Form", "choose_forms", "remove_forms", "write_forms"]

PER_IMAGE = ("pictures", "cutouts")  # written with each image, as they need its pixels


@dataclass(frozen=True)
class Form:
    """A form that is made of all lines, at the end.

    Attributes:
        write: called with the predictions, the folder and the options.
        files: what it writes, below the folder; the last is written last.
    """

    write: Callable[[Predictions, Path, FormOptions], None]
    files: tuple[str, ...]

    def is_in(self, folder: Path) -> bool:
        return (folder / self.files[0]).exists()


FORMS: dict[str, Form] = {
    "coco": Form(write_coco, ("coco_dataset.json",)),
    "coco-polygons": Form(write_coco_polygons, ("coco_polygons.json",)),
    "csv": Form(write_csv, ("objects.csv",)),
    "label-studio": Form(
        write_label_studio, ("label_studio/brush.json", "label_studio/interface.xml")
    ),
    "label-studio-polygons": Form(
        write_label_studio_polygons, ("label_studio/polygons.json", "label_studio/interface.xml")
    ),
    "cvat": Form(
        write_cvat,
        (
            "cvat/annotations/instances_default.json",
            "cvat/annotations/person_keypoints_default.json",
        ),
    ),
}


def choose_forms(names: Iterable[str]) -> list[str]:
    """Names of forms, each once.

    Raises:
        ConfigError: there is no such form; names those that there are.
    """
    known = [*PER_IMAGE, *FORMS]
    chosen = dict.fromkeys(names)
    for name in chosen:
        if name not in known:
            near = similar(name, known, most=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"--save '{name}': expected some of {', '.join(known)}.{hint}")
    return list(chosen)


def write_forms(
    names: Sequence[str],
    predictions: Predictions,
    folder: Path,
    options: FormOptions | None = None,
) -> None:
    """Write forms of ``FORMS``, each file whole or not at all.

    Raises:
        OSError: one cannot be written; the others are, and what it was before is left.
    """
    failed: OSError | None = None
    for name in names:
        try:
            FORMS[name].write(predictions, folder, options or FormOptions())
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def remove_forms(folder: Path) -> None:
    """Delete all that :func:`write_forms` writes.

    Raises:
        OSError: a file cannot be deleted.
    """
    for form in FORMS.values():
        for file in form.files:
            (folder / file).unlink(missing_ok=True)
