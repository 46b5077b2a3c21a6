# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO's json and RLE: reading, checking and indexing, for everything that touches such files."""
