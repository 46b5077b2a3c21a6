# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""A page as one HTML file: templates extend ``base.html`` and use the macros of ``macros.html``."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .._version import __version__

__all__ = ["render_page"]

_TEMPLATES = Path(__file__).parent / "template"


def render_page(template: Path, **values) -> str:
    """Fill in a template.

    Args:
        template: its file; those beside it can be included.
        values: by the names that it uses, "title" among them; a missing one is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(version=__version__, **values)
