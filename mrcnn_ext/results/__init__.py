# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions in the forms that people and other programs use, a file a form."""

from .cutouts import Cutouts, cut_out
from .for_fiftyone import to_fiftyone
from .for_supervision import SupervisionResults, to_supervision
from .forms import FORMS, choose_forms, remove_forms, write_forms
from .options import FormOptions
from .predictions import Predictions

__all__ = ["FORMS", "Cutouts", "FormOptions", "Predictions", "SupervisionResults"]
__all__ += ["choose_forms", "cut_out", "remove_forms", "to_fiftyone", "to_supervision"]
__all__ += ["write_forms"]
