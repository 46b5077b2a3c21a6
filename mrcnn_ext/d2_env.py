# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The hook for Detectron2's own, unmodified tools.

``DETECTRON2_ENV_MODULE=mrcnn_ext.d2_env train_net.py --config-file …``: Detectron2 imports this
module and calls :func:`setup_environment` when it is itself imported, in every process, spawned
ones included. Another plugin's hook can run too:
``MRCNN_EXT_ENV_MODULES=other_plugin.d2_env,third.env``.
"""

from __future__ import annotations

import importlib
import os

from .child_processes import end_with_parent

__all__ = ["setup_environment"]

_CHAIN_VARIABLE = "MRCNN_EXT_ENV_MODULES"


def setup_environment() -> None:
    """Register all of mrcnn_ext and add its keys to the defaults that ``get_cfg()`` clones.

    Idempotent, and safe whichever of detectron2 and mrcnn_ext is imported first: either import may
    still be under way when Detectron2 calls this.

    Raises:
        ImportError: a module in ``MRCNN_EXT_ENV_MODULES`` does not exist or has no
            ``setup_environment``.
    """
    end_with_parent()
    # detectron2.config can be imported by now; mrcnn_ext may be half imported (it imports detectron2
    # first of all), in which case its registrations follow when that import goes on.
    from detectron2.config import defaults

    from .config.defaults import add_mrcnn_ext_config

    add_mrcnn_ext_config(defaults._C)
    importlib.import_module("mrcnn_ext")
    _run_other_hooks()


def _run_other_hooks() -> None:
    for name in filter(None, (s.strip() for s in os.environ.get(_CHAIN_VARIABLE, "").split(","))):
        try:
            hook = importlib.import_module(name).setup_environment
        except (ModuleNotFoundError, AttributeError) as error:
            raise ImportError(
                f"{_CHAIN_VARIABLE} names '{name}', which cannot be used as an environment hook: "
                f"{error}"
            ) from error
        hook()
