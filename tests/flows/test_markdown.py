"""Text of others in Markdown: what a reader of the page gets is what was written."""

import html

import pytest
from markdown_it import MarkdownIt

from afd.artifacts import ArtifactRef
from flows.markdown import literal, literal_block
from flows.mlflow_runs import projection
from flows.mlflow_runs.experiment import NOTE
from flows.mlflow_runs.facts import BegunStage

TEXTS = (
    "a **bold** claim, _so_ `it` is",
    "[click](https://elsewhere) ![x](http://elsewhere/x.png)",
    "<img src=http://elsewhere/x.png> <script>1</script> &lt;",
    "# no heading | no cell",
    "snake_case_name ~~gone~~ {#id} a\\*b",
    "```\nout of the block\n```",
)


def shown(markdown: str) -> str:
    """The text of a rendered page, without its own tags."""
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return page.render(markdown)


@pytest.mark.parametrize("text", TEXTS)
def test_a_line_is_shown_as_it_was_written(text: str) -> None:
    page = shown(f"- {literal(text)}")
    inside = page.removeprefix("<ul>\n<li>").removesuffix("</li>\n</ul>\n")
    assert html.unescape(inside) == " ".join(text.split())
    assert "<" not in inside


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_of_a_table_is_shown_as_it_was_written(text: str) -> None:
    page = shown(f"| a | b |\n|---|---|\n| {literal(text)} | 1 |")
    assert page.count("<td>") == 2
    cell = page.split("<td>")[1].split("</td>")[0]
    assert html.unescape(cell) == " ".join(text.split())


@pytest.mark.parametrize("text", TEXTS)
def test_the_log_of_a_failed_stage_is_code_in_its_note(text: str) -> None:
    ref = ArtifactRef(kind="rollouts", fingerprint="0" * 64)
    begun = BegunStage(stage="rollout", ref=ref, round_index=0, began_ms=1, message=text)
    note = projection.failed_stage(begun, 2).contents[0].tags[NOTE]
    assert note == literal_block(text)
    page = shown(note)
    inside = page.removeprefix("<pre><code>").removesuffix("\n</code></pre>\n")
    assert html.unescape(inside) == text and "<" not in inside
