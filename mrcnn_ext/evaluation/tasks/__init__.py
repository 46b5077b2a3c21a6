# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The tasks of an evaluation, one file each. To add a metric, write its file and import it here."""

from . import ap, boundary, false_positives, mask_quality, oks, operating_point, pck
from .task import TASKS, Task, TaskInput, choose_tasks, named_tasks, register_task

__all__ = ["TASKS", "Task", "TaskInput", "ap", "boundary", "choose_tasks"]
__all__ += ["false_positives", "mask_quality", "named_tasks", "oks", "operating_point", "pck"]
__all__ += ["register_task"]
