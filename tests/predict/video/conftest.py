# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest


@pytest.fixture
def without_pyav(monkeypatch):
    """As where PyAV is not installed."""
    for module in ("read", "write"):
        monkeypatch.setattr(f"mrcnn_ext.predict.video.{module}.av", None)
