# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""``MODEL.WEIGHTS: "mrcnn_ext://NAME"``: the trained models that come with the package.

Each is one safetensors file of tensors alone: matrices in float16, vectors (norms, biases) in float32.
The handler writes it, in float32, as a checkpoint to the cache; Detectron2's own checkpointer reads
that, for prediction and for fine-tuning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.utils.file_io import PathManager

from ..errors import WeightsError
from ..files import replaced_file
from ..messages import similar
from ..paths import cache_root, shipped_weights_folder
from .converted_weights import ConvertedWeightsHandler

__all__ = [
    "DEFAULT_SHIPPED",
    "SHIPPED",
    "ShippedModel",
    "ShippedWeightsHandler",
    "register_shipped_weights_handler",
    "shipped_model",
    "write_shipped",
]

_PREFIX = "mrcnn_ext://"


@dataclass(frozen=True)
class ShippedModel:
    """A trained model that comes with the package.

    Args:
        name: as in ``mrcnn_ext://name``.
        config: its config's name in :mod:`mrcnn_ext.model_zoo`.
        sha256: of its file.
        what: what it finds, in a few words.
    """

    name: str
    config: str
    sha256: str
    what: str

    @property
    def uri(self) -> str:
        return _PREFIX + self.name

    @property
    def file(self) -> Path:
        return shipped_weights_folder() / f"{self.name}.safetensors"


SHIPPED: dict[str, ShippedModel] = {
    model.name: model
    for model in (
        ShippedModel(
            name="person_pose_lite0",
            config="COCO-PersonSubset/pose_Lite0_FPN_cpu.yaml",
            sha256="7bcc2846debc49a48243e0307e2f251741e254bcdb205085cfa41440d919dd25",
            what="persons: boxes, masks and 17 keypoints",
        ),
    )
}
DEFAULT_SHIPPED = "person_pose_lite0"


def shipped_model(uri: str) -> ShippedModel:
    """The model that ``mrcnn_ext://NAME`` names.

    Raises:
        WeightsError: there is none of that name; names similar ones.
    """
    name = uri[len(_PREFIX) :] if uri.startswith(_PREFIX) else uri
    if name not in SHIPPED:
        near = similar(name, SHIPPED, likeness=0.4) or list(SHIPPED)
        raise WeightsError(
            f"MODEL.WEIGHTS '{uri}': no model '{name}' comes with mrcnn_ext; there is "
            f"{', '.join(near)}."
        )
    return SHIPPED[name]


class ShippedWeightsHandler(ConvertedWeightsHandler):
    """iopath handler for ``mrcnn_ext://``."""

    prefix = _PREFIX

    def cached_file(self, uri: str) -> Path:
        model = shipped_model(uri)
        # A later version's weights get another file.
        return cache_root() / "weights" / f"{model.name}-{model.sha256[:12]}.pth"

    def write(self, uri: str, target: Path) -> None:
        model = shipped_model(uri)
        state_dict = {name: tensor.float() for name, tensor in _read(model).items()}
        with replaced_file(target) as temporary:
            torch.save({"model": state_dict}, temporary)


def register_shipped_weights_handler() -> None:
    """Make Detectron2's PathManager understand ``mrcnn_ext://``. Idempotent."""
    PathManager.register_handler(ShippedWeightsHandler(), allow_override=True)


def write_shipped(state_dict: Mapping[str, torch.Tensor], file: Path) -> str:
    """Write weights in the form in which they are shipped.

    Args:
        state_dict: of a trained model.
        file: ``NAME.safetensors``.

    Returns:
        the file's sha256.

    Raises:
        WeightsError: a value is not finite, or too large for float16.
    """
    _need_safetensors()
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in state_dict.items():
        if not tensor.is_floating_point():  # counters of batches
            continue
        small = tensor.detach().cpu().to(torch.float16 if tensor.ndim > 1 else torch.float32)
        if not torch.isfinite(small).all():
            raise WeightsError(f"{name}: has values that are not finite in {small.dtype}.")
        tensors[name] = small.contiguous()
    with replaced_file(file) as temporary:
        save_file(tensors, str(temporary), metadata={"format": "pt"})
    return _sha256(file)


def _read(model: ShippedModel) -> dict[str, torch.Tensor]:
    _need_safetensors()
    from safetensors.torch import load_file

    if not model.file.is_file():
        raise WeightsError(f"{model.file}: is missing; install the package anew.")
    found = _sha256(model.file)
    if found != model.sha256:
        raise WeightsError(
            f"{model.file}: is damaged or of another version: its sha256 is {found}, expected "
            f"{model.sha256}. Install the package anew."
        )
    return load_file(str(model.file))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _need_safetensors() -> None:
    try:
        import safetensors.torch  # noqa: F401
    except ImportError as error:
        raise WeightsError(
            "the shipped models need safetensors and timm: pip install 'mrcnn_ext[timm]'."
        ) from error
