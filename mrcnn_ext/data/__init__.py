# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from .shapes import register_builtin_shapes

register_builtin_shapes()
