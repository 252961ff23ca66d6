"""Pages of one file, which open anywhere: templates of a folder, with the look that all of them share (page.css)."""

from __future__ import annotations

from pathlib import Path

import jinja2


def page_environment(folder: Path) -> jinja2.Environment:
    """For the templates in a folder."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
