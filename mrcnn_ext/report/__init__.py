# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A report on one or several COCO result files: numbers, curves, kinds of errors, pictures.

``python -m mrcnn_ext.report`` is the command, :func:`make_report` the function; docs/report.md says
what each part of the report shows and how it is defined.
"""

from .build import make_report

__all__ = ["make_report"]
