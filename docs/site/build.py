"""Documentation site, built by Sphinx from README.md, docs/ and the program itself.

    python docs/site/build.py [FOLDER]      default: site/; `make docs`

README.md becomes the first page, every command with its options comes from the command line, the
Python pages from docstrings. A broken link or anchor fails the build. The repository's address is
not known here, so a link to a source file becomes the file's path.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES: Mapping[str, Sequence[str]] = {
    "First hour": ("install", "demo", "sampling", "glossary"),
    "The code": ("architecture", "extending", "python"),
    "Guides": ("students", "teachers", "cluster", "alarms", "evaluators", "ablations"),
    "Reference": ("cli", "commands", "params"),
    "Results": (
        "results",
        "The quick comparison <quick>",
        "benchmarks",
        "granularity",
        "lab-notes",
        "licences",
    ),
}
PYTHON: Mapping[str, Sequence[str]] = {
    "A student in Python": ("afd.sampling.student", "afd.sampling.video"),
    "The method": (
        "flows.round", "flows.baselines", "afd.advantage", "afd.losses.flow_matching",
        "afd.losses.adversarial",
    ),
    "Artifacts": ("afd.artifacts", "afd.store", "afd.runtime.request", "afd.runtime.stage_specs"),
    "Students, discriminators and teachers": (
        "afd.students.student", "afd.discriminators.discriminator", "afd.teachers.teacher",
    ),
}  # fmt: skip
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def main(site: Path) -> int:
    """Build the site in `site`; return Sphinx's exit code."""
    from sphinx.cmd.build import main as sphinx

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "docs"
        write_pages(source)
        fails_on_warnings = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
        return sphinx(
            ["-b", "html", "-c", str(Path(__file__).parent), *fails_on_warnings, "-d",
             f"{folder}/doctrees", str(source), str(site)]
        )  # fmt: skip


def write_pages(source: Path) -> None:
    """Write every page of the site as Sphinx reads it."""
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("site"))
    for page in source.glob("*.md"):
        page.write_text(_without_sources(page.read_text()))
    readme = _without_sources(LINK.sub(_as_from_docs, (ROOT / "README.md").read_text()))
    (source / "index.md").write_text(readme + _contents())
    (source / "commands.md").write_text(_commands())
    (source / "python.rst").write_text(_python())


def _contents() -> str:
    """Return the navigation: a table of contents for each group of pages."""
    tables = [
        "```{toctree}\n:hidden:\n:caption: " + title + "\n\n" + "\n".join(pages) + "\n```\n"
        for title, pages in GUIDES.items()
    ]
    return "\n" + "\n".join(tables)


def _commands() -> str:
    """Return all commands and options, from the command line's own help."""
    from flows.cli import app

    text = str(app.generate_docs())
    first = text.index("## ")  # its own table of contents, which the site has already
    return "# Commands and options\n\n" + text[text.index("\n## ", first + 1) + 1 :]


def _python() -> str:
    """Return the public modules; autodoc fills them from docstrings."""
    parts = ["Python\n======\n"]
    for title, modules in PYTHON.items():
        parts += [f"{title}\n{'-' * len(title)}\n"]
        parts += [
            f"{name}\n{'^' * len(name)}\n\n.. automodule:: {name}\n   :members:\n"
            for name in modules
        ]
    return "\n".join(parts)


def _as_from_docs(match: re.Match[str]) -> str:
    mark, label, target, anchor = match.groups(default="")
    if "://" in target:
        return match[0]
    if not target.startswith("docs/"):
        return f"{mark}[{label}](../{target}{anchor})"
    place = target.removeprefix("docs/")
    if label == target:
        label = place.removesuffix(".md")
    return f"{mark}[{label}]({place}{anchor})"


def _without_sources(markdown: str) -> str:
    """Return the page with links to files outside docs/ as paths."""

    def inside(match: re.Match[str]) -> str:
        _, label, target, _ = match.groups(default="")
        path = target.removeprefix("../")
        if path == target or "://" in target:
            return match[0]
        return f"`{path}`" if path in label else f"{label} (`{path}`)"

    return LINK.sub(inside, markdown)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()))
