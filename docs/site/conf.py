"""Sphinx settings of the documentation site (docs/site/build.py)."""

import importlib.metadata
import re

from sphinx.application import Sphinx

CODE = re.compile(r"`+([^`]+)`+|([*|_\\])")

project = "AFD"
author = copyright = "The AFD authors"
release = importlib.metadata.version("afd")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4  # links to headings, as a repository's page has them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other libraries, whose pages are not read here
html_theme = "furo"
html_title = "AFD"
html_show_sourcelink = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    """Read docstrings as the plain text that they are."""
    app.connect("autodoc-process-docstring", _as_restructured_text)


def _as_restructured_text(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make indented lines literal, escape marks, and set `code` as code."""
    made: list[str] = []
    for line in lines:
        is_code = line.startswith("    ")
        if is_code and (not made or not made[-1].startswith("    ")):
            made += ["", "::", ""]
        elif not is_code and made and made[-1].startswith("    "):
            made.append("")
        made.append(line if is_code else CODE.sub(_inline, line))
    lines[:] = made


def _inline(match: re.Match[str]) -> str:
    code, mark = match.groups()
    return f"``{code}``" if code else f"\\{mark}"
