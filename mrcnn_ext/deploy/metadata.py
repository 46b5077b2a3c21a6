# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What an exported file says of its model; docs/deployment.md lists it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._version import __version__
from ..errors import ConfigError
from ..modeling.keypoint_heads import KeypointHeadBase
from ..skeletons import SkeletonSet
from ..skeletons.from_json import skeletons_content
from .onnx_runner import FORMAT_VERSION
from .traceable import keypoint_head_of, leaves_maps

__all__ = ["ModelInput", "copy_metadata", "metadata_of", "set_metadata"]

# Detectron2 has no setting for it
_MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class ModelInput:
    """How images become the model's input, and what its classes are.

    Args:
        pixel_format: "BGR" or "RGB"; of no meaning with ``bands``.
        min_size, max_size: of Detectron2's ResizeShortestEdge; ``min_size`` 0: images keep their size.
        classes: names; None if they are not known.
        category_ids: what results call the classes; None: 0, 1, …
        skeletons: of the classes; None without keypoints, or if they are not known.
        bands, pixel_type, rgb_bands: as MRCNN_EXT.DATA.BANDS, PIXEL_TYPE and RGB_BANDS.

    Raises:
        ConfigError: a value is out of range.
    """

    pixel_format: str = "BGR"
    min_size: int = 800
    max_size: int = 1333
    classes: Sequence[str] | None = None
    category_ids: Sequence[int] | None = None
    skeletons: SkeletonSet | None = None
    bands: Sequence[int] = ()
    pixel_type: str = "uint8"
    rgb_bands: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.pixel_format not in ("BGR", "RGB"):
            raise ConfigError(
                f"the pixel format is '{self.pixel_format}'; only BGR and RGB can be exported."
            )
        if self.min_size < 0 or self.max_size < self.min_size:
            raise ConfigError(
                f"images are resized to {self.min_size} to {self.max_size} pixels; expected 0 or "
                "more, the larger number last."
            )


def metadata_of(model: nn.Module, source: ModelInput, *, resize: bool) -> dict[str, Any]:
    """The content of the entry "mrcnn_ext".

    Args:
        model: as :func:`~.supported.check_model` accepts it.
        source: of its images.
        resize: the graph resizes images.

    Raises:
        ConfigError: the names do not fit the model.
    """
    heads = model.roi_heads
    classes = heads.num_classes
    if source.bands and resize:
        raise ConfigError(
            f"MRCNN_EXT.DATA.BANDS is {list(source.bands)}; --resize-in-graph takes pictures of 3 "
            "bands with 8 bits only: leave it out."
        )
    channels, expected = int(model.pixel_mean.numel()), len(source.bands) or 3
    if channels != expected:
        raise ConfigError(
            f"the model has {channels} channels (MODEL.PIXEL_MEAN), but its images have {expected}; "
            "name their bands in MRCNN_EXT.DATA.BANDS."
        )
    for what, names in (("names", source.classes), ("ids", source.category_ids)):
        if names is not None and len(names) != classes:
            raise ConfigError(f"there are {len(names)} {what} for {classes} classes of the model.")
    return {
        "package_version": __version__,
        "model": _names(model),
        "num_classes": classes,
        "classes": None if source.classes is None else list(source.classes),
        "category_ids": None if source.category_ids is None else list(source.category_ids),
        "pixel_format": source.pixel_format,
        "bands": {
            "bands": list(source.bands),
            "pixel_type": source.pixel_type,
            "rgb_bands": list(source.rgb_bands),
        }
        if source.bands
        else None,
        "pixel_mean": _numbers(model.pixel_mean),
        "pixel_std": _numbers(model.pixel_std),
        "size_divisibility": int(model.backbone.size_divisibility),
        "resize": {
            "rule": "shortest edge",
            "min_size": source.min_size,
            "max_size": source.max_size,
            "filter": "bilinear, antialiased, as Pillow's",
            "in_graph": resize,
        },
        "mask_threshold": _MASK_THRESHOLD,
        "keypoints": _keypoints(model, source.skeletons),
        "skeletons": None if source.skeletons is None else _skeletons(source.skeletons),
    }


def _names(model: nn.Module) -> dict[str, str | None]:
    heads = model.roi_heads
    parts = {"meta_architecture": model, "backbone": model.backbone, "roi_heads": heads}
    if getattr(heads, "mask_on", False):
        parts["mask_head"] = heads.mask_head
    if getattr(heads, "keypoint_on", False):
        parts["keypoint_head"] = heads.keypoint_head
    return {name: type(part).__name__ for name, part in parts.items()}


def _keypoints(model: nn.Module, skeletons: SkeletonSet | None) -> dict[str, Any] | None:
    head = keypoint_head_of(model)
    if head is None:
        return None
    codec = getattr(head, "codec", None)
    own = isinstance(head, KeypointHeadBase)
    counted = head.class_keypoints if own else None
    number = int(head.num_keypoints)
    if skeletons is not None and skeletons.num_keypoints != number:
        raise ConfigError(
            f"the skeletons have {skeletons.num_keypoints} keypoints, but the model has {number}."
        )
    has_classes = skeletons is not None and bool(skeletons.class_skeletons)
    return {
        "number": number,
        "names": None if skeletons is None else list(skeletons.keypoint_names),
        "decoded": "runner" if leaves_maps(model) else "graph",
        "codec": "one_hot" if codec is None else (codec.name or type(codec).__name__),
        "codec_settings": {} if codec is None else _settings(codec),
        "score": "max" if codec is None else codec.score,
        "sigmas": _sigmas(codec, number),
        "class_keypoints": None if counted is None else counted.tolist(),
        "slots": skeletons.class_keypoints().tolist() if has_classes else None,  # type: ignore
        "fold_score": bool(own and head.fold_score),
    }


def _settings(codec: nn.Module) -> dict[str, Any]:
    kept = (bool, int, float, str)
    return {k: v for k, v in sorted(vars(codec).items()) if k[0] != "_" and isinstance(v, kept)}


def _sigmas(codec: Any, number: int) -> list[float] | None:
    if codec is None or codec.score != "oks":
        return None
    return list(codec.oks_sigmas) or [0.05] * number


def _skeletons(skeletons: SkeletonSet) -> dict[str, Any]:
    names = skeletons.class_names or tuple(map(str, range(skeletons.num_classes)))
    return skeletons_content(skeletons.skeletons, skeletons.class_skeletons, names)


def _numbers(tensor: Tensor) -> list[float]:
    return [round(float(value), 6) for value in tensor.flatten()]


def set_metadata(proto, info: dict[str, Any]) -> None:
    """Put ``info`` into an ``onnx.ModelProto``, and take out what tells of the machine."""
    version = FORMAT_VERSION if info.get("bands") else 1
    _set(proto, {"mrcnn_ext_format": str(version), "mrcnn_ext": json.dumps(info)})


def copy_metadata(source, target) -> None:
    """Say of one ``onnx.ModelProto`` what another says of itself."""
    _set(target, {item.key: item.value for item in source.metadata_props})


def _set(proto, values: dict[str, str]) -> None:
    del proto.metadata_props[:]
    for key, value in values.items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name, proto.producer_version = "mrcnn_ext", __version__
    _strip(proto.graph)


def _strip(graph) -> None:
    graph.name = "mrcnn_ext"
    graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""  # traces of calls, with paths
        del node.metadata_props[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
