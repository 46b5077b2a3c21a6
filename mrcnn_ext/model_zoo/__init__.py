# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""This package's configs by name, as ``detectron2.model_zoo`` gives Detectron2's."""

from .model_zoo import get, get_config, get_config_file, list_configs

__all__ = ["get", "get_config", "get_config_file", "list_configs"]
