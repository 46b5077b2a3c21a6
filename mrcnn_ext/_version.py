# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The version alone, so that setup.py reads it without importing torch."""

__version__ = "0.1.0"
