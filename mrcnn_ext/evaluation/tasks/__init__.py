# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The tasks of an evaluation, one file each. To add a metric, write its file and import it here."""

from . import ap, boundary, mask_quality, oks, operating_point, pck
from .task import TASKS, Task, TaskInput, choose_tasks, named_tasks, register_task

__all__ = ["TASKS", "Task", "TaskInput", "ap", "boundary", "choose_tasks", "mask_quality"]
__all__ += ["named_tasks", "oks", "operating_point", "pck", "register_task"]
