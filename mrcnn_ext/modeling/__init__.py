# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from . import backbone, meta_arch  # noqa: F401
