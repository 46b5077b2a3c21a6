# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Load a checkpoint into a model: complete for prediction, as far as it goes for fine-tuning."""

from __future__ import annotations

import logging

from torch import nn

from ..errors import WeightsError
from .check_weights import CheckedWeights, check_complete, describe_loaded
from .first_convolution import FirstConvolution
from .safe_checkpointer import SafeCheckpointer

__all__ = ["load_weights"]

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    weights: str,
    *,
    complete: bool,
    trust_pickle: bool = False,
    first_convolution: FirstConvolution | None = None,
) -> CheckedWeights:
    """Load a checkpoint; runs no code from it.

    Args:
        model: is changed, also where this raises.
        weights: file or address, as for MODEL.WEIGHTS.
        complete: the model is to predict or to be evaluated, so all of its weights must be there.
            False is for fine-tuning: what is loaded and what is new is logged.
        trust_pickle: load any file, even if that runs code from it.
        first_convolution: how weights for three channels are taken into a model for another number;
            None: not at all.

    Returns:
        what was loaded, and what was not.

    Raises:
        WeightsError: the file cannot be read, or could run code; with ``complete`` also: it lacks
            weights, has them in other shapes, or they are NaN. Names the file and the weights.
    """
    checkpointer = SafeCheckpointer(model, trust_pickle=trust_pickle)
    checkpointer.first_convolution = first_convolution
    try:
        checkpointer.load(weights, checkpointables=[])
    except WeightsError:
        raise
    except Exception as error:  # of values that are no tensors, downloads, paths
        reason = str(error).splitlines()[0] if str(error) else ""
        raise WeightsError(
            f"{weights}: cannot be loaded: {type(error).__name__}: {reason}"
        ) from error
    checked = checkpointer.checked
    if checked is None:
        raise WeightsError(f"MODEL.WEIGHTS is '{weights}', which names no checkpoint.")
    if complete:
        check_complete(checked, weights)
    else:
        incomplete = checked.missing or checked.not_finite
        logger.log(
            logging.WARNING if incomplete else logging.INFO,
            "%s: %s",
            weights,
            describe_loaded(checked),
        )
    return checked
