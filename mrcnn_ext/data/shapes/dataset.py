# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The synthetic set on disk, in COCO's format, and in Detectron2's catalogs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from iopath.common.file_io import file_lock

from ...coco.rle import encode_mask, rle_box, text_rle
from ...errors import ConfigError, DataError
from ...paths import cache_root
from ..coco_datasets import load_coco_pose, replace_dataset
from .kinds import KINDS, SceneKind
from .scene import Scene, render_scene

__all__ = [
    "ShapesSpec",
    "configure_builtin_shapes",
    "generate_shapes",
    "load_shapes",
    "register_builtin_shapes",
    "register_shapes",
]

logger = logging.getLogger(__name__)

# Part of the folder's name: raise it with any change to the pictures, so that no old ones are used.
_FORMAT = 1
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShapesSpec:
    """Recipe of a synthetic data set; equal specs make equal data sets.

    Args:
        split: "train" or "val"; the two share no picture, whatever their seeds.
        num_images: a smaller set is the beginning of a larger one.
        image_size: longer side in pixels, 64 to 4096.
        seed: 0 or more.
        kind: "shapes", or "pose": two articulated classes and one without keypoints.

    Raises:
        ConfigError: a value is out of its range.
    """

    split: str
    num_images: int
    image_size: int = 320
    seed: int = 0
    kind: str = "shapes"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"kind {self.kind!r} of a synthetic data set: expected {list(KINDS)}."
            )
        if self.split not in _SPLITS:
            raise ConfigError(f"split {self.split!r} of a synthetic data set: expected {_SPLITS}.")
        for name, low, high in (
            ("num_images", 1, 10**6),
            ("image_size", 64, 4096),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                key = "NUM_" + self.split.upper() if name == "num_images" else name.upper()
                raise ConfigError(
                    f"{name} of the synthetic {self.split} set (MRCNN_EXT.SHAPES.{key}) is "
                    f"{value!r}; expected a whole number from {low} to {high}."
                )

    def folder(self, root: str | os.PathLike | None = None) -> Path:
        """Folder of the set below ``root``, by default this package's cache."""
        base = Path(root) if root is not None else cache_root() / "shapes"
        start = "" if self.kind == "shapes" else f"{self.kind}_"
        name = (
            f"{start}{self.split}_{self.num_images}x{self.image_size}px_seed{self.seed}_v{_FORMAT}"
        )
        return base / name


def generate_shapes(spec: ShapesSpec, root: str | os.PathLike | None = None) -> Path:
    """Generate the data set unless it exists. Several processes may call this at once.

    Returns:
        path of the COCO json; the images are in the folder ``images`` beside it.

    Raises:
        DataError: the folder cannot be written.
    """
    folder = spec.folder(root)
    annotations = folder / "annotations.json"
    if annotations.is_file():
        return annotations
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(folder)):
            if not annotations.is_file():  # nobody else made it while we waited
                _generate(spec, folder)
    except OSError as error:
        raise DataError(
            f"the synthetic data set cannot be written to {folder}: {error}. Set MRCNN_EXT_CACHE to "
            "a folder that can."
        ) from error
    return annotations


def _generate(spec: ShapesSpec, folder: Path) -> None:
    logger.info("Making the synthetic data set %s, once ...", folder)
    start = f".{folder.name}.making."
    for left in folder.parent.glob(f"{start}{'?' * 8}"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    # Made in a folder aside, then renamed: an interrupted run leaves no half of a data set.
    work = Path(tempfile.mkdtemp(prefix=start, dir=folder.parent))
    try:
        (work / "images").mkdir()
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(spec.num_images):
            image, objects = _make_image(spec, index, work / "images")
            images.append(image)
            for entry in objects:
                annotations.append({"id": len(annotations) + 1, **entry})
            if (index + 1) % 200 == 0:
                logger.info("%d of %d images", index + 1, spec.num_images)
        content = {
            "info": {"description": "mrcnn_ext synthetic shapes", "version": str(_FORMAT)},
            "images": images,
            "annotations": annotations,
            "categories": _categories(KINDS[spec.kind]),
        }
        (work / "annotations.json").write_text(json.dumps(content))
        work.chmod(0o755)  # mkdtemp's are for their owner alone; a shared cache is for all
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_image(spec: ShapesSpec, index: int, folder: Path) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng([spec.seed, _SPLITS.index(spec.split), index])
    aspect = float(np.exp(rng.uniform(np.log(0.75), np.log(4 / 3))))
    width = spec.image_size if aspect >= 1 else round(spec.image_size * aspect)
    height = spec.image_size if aspect <= 1 else round(spec.image_size / aspect)
    kind = KINDS[spec.kind]
    scene = render_scene(rng, height, width, kind)
    name = f"{index + 1:06d}.jpg"
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    if not cv2.imwrite(str(folder / name), scene.image[:, :, ::-1], quality):
        raise OSError(f"{folder / name} was not written")
    image = {"id": index + 1, "file_name": name, "height": height, "width": width}
    return image, _annotations(scene, index + 1, kind)


def _annotations(scene: Scene, image_id: int, kind: SceneKind) -> list[dict]:
    out = []
    for category, mask, keypoints in zip(scene.categories, scene.masks, scene.keypoints):
        rle = encode_mask(mask)
        own = kind.skeletons.num_keypoints if kind.flat_keypoints else 0
        points = np.zeros((own, 3))
        if keypoints is not None:
            points = keypoints.copy()
            # COCO's keypoints name pixels: continuous 0.5 is its 0. Detectron2 adds the 0.5 back.
            points[points[:, 2] > 0, :2] -= 0.5
        out.append(
            {
                "image_id": image_id,
                "category_id": category + 1,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": rle_box(rle),
                "segmentation": text_rle(rle),
                "keypoints": points.round(3).ravel().tolist(),
                "num_keypoints": int((points[:, 2] > 0).sum()),
            }
        )
    return out


def _categories(kind: SceneKind) -> list[dict]:
    categories: list[dict] = []
    for index, name in enumerate(kind.class_names):
        category: dict = {"id": index + 1, "name": name}
        skeleton = kind.skeletons.skeleton(index)
        if skeleton is not None:
            category["keypoints"] = list(skeleton.keypoint_names)
            category["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.edge_indices]
        categories.append(category)
    return categories


def load_shapes(
    spec: ShapesSpec, root: str | os.PathLike | None = None, name: str | None = None
) -> list[dict]:
    """Load the set as Detectron2's dataset dicts; generate it first if need be.

    Args:
        name: a registered name, whose metadata gets ``json_file`` and ``image_root``.
    """
    annotations = generate_shapes(spec, root)
    images = annotations.parent / "images"
    if name is not None:
        metadata = MetadataCatalog.get(name)
        metadata.set(image_root=str(images))
        # A COCOEvaluator that came before has put its own copy of the annotations there.
        if metadata.get("json_file") is None:
            metadata.json_file = str(annotations)
    kind = KINDS[spec.kind]
    if kind.flat_keypoints:
        return load_coco_json(str(annotations), str(images), name)
    return load_coco_pose(annotations, images, kind.skeletons, name)


def register_shapes(name: str, spec: ShapesSpec, root: str | os.PathLike | None = None) -> None:
    """Register a synthetic set as ``name``, replacing this name; its files are made on first use."""
    metadata = replace_dataset(name, lambda: load_shapes(spec, root, name))
    kind = KINDS[spec.kind]
    metadata.set(
        evaluator_type="coco",
        thing_classes=list(kind.class_names),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(kind.class_names))},
        mrcnn_ext_mask_format="bitmask",  # the json, whose masks are RLE, may not be there yet
    )
    kind.skeletons.set_metadata(metadata)


_builtin: dict[str, ShapesSpec] = {}


def register_builtin_shapes() -> None:
    """Register ``mrcnn_ext_shapes_train`` … and ``mrcnn_ext_shapes_pose_val`` unless they exist."""
    if not _builtin:
        configure_builtin_shapes()


def configure_builtin_shapes(
    *, num_train: int = 400, num_val: int = 100, image_size: int = 320, seed: int = 0
) -> None:
    """Set number, size and seed of the pictures in the built-in sets; see :class:`ShapesSpec`.

    Raises:
        ConfigError: a value is out of its range.
    """
    numbers = {"train": num_train, "val": num_val}
    specs = {
        f"mrcnn_ext_shapes_{start}{split}": ShapesSpec(split, number, image_size, seed, kind)
        for kind, start in (("shapes", ""), ("pose", "pose_"))
        for split, number in numbers.items()
    }
    for name, spec in specs.items():
        # Metadata of an unchanged set stays as it is: others may have added to it.
        if _builtin.get(name) != spec:
            register_shapes(name, spec)
            _builtin[name] = spec
