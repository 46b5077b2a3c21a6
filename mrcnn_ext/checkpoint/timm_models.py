# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Create timm models that return feature maps: the ones that backbones use and weights are for."""

from __future__ import annotations

from torch import nn

from ..errors import ConfigError
from ..messages import similar

__all__ = ["create_timm_features"]


def create_timm_features(
    model_name: str,
    drop_path_rate: float = 0.0,
    in_channels: int = 3,
    out_indices: tuple[int, ...] | None = None,
    **kwargs,
) -> nn.Module:
    """Create timm's ``features_only`` form of a model, set up to take images of any size.

    Args:
        model_name: name in timm's registry.
        drop_path_rate: stochastic depth rate; 0 leaves it to the model.
        in_channels: channels of the input image.
        out_indices: indices of the feature maps to return; None returns all.
        kwargs: passed to ``timm.create_model``.

    Raises:
        ConfigError: timm is missing, has no such model, or the model has no feature maps.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError("timm backbones need the package timm: pip install timm") from error
    if not timm.is_model(model_name):
        near = similar(model_name, timm.list_models(), most=5)
        raise ConfigError(
            f"MRCNN_EXT.TIMM.NAME is '{model_name}', which timm {timm.__version__} does not have"
            + (f"; similar names: {', '.join(near)}." if near else ".")
        )
    if model_name.startswith(("swin_", "swinv2_")):
        kwargs["strict_img_size"] = False  # or it takes only the size it was trained with
    if drop_path_rate:
        kwargs["drop_path_rate"] = drop_path_rate
    if out_indices is not None:
        kwargs["out_indices"] = out_indices
    try:
        return timm.create_model(model_name, features_only=True, in_chans=in_channels, **kwargs)
    except (RuntimeError, TypeError, AssertionError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"MRCNN_EXT.TIMM.NAME '{model_name}': timm cannot make a features_only model of it "
            f"with {kwargs or 'default options'}: {error}"
        ) from error
