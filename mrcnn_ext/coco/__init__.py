# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""COCO's json and RLE: reading, checking and indexing, for everything that touches such files.

``read`` reads annotation files, ``results`` reads predictions, ``index`` numbers both for an
evaluation, ``rle`` decodes and encodes masks, ``areas`` has the sizes of objects. Nothing here imports
an upper room (data, modeling, evaluation, report, compare).
"""
