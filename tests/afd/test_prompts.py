"""Prompts: hostile until checked, split by nothing but their text."""

import hashlib
import json
from pathlib import Path

import pytest

from afd.prompts import (
    MAX_CHARACTERS,
    MAX_PROBLEMS,
    PromptsError,
    check_text,
    compose,
    parse_jsonl,
    prompt_id,
    prompts_of_round,
    read_jsonl,
    split_by_hash,
    to_jsonl,
)


def problems(data: bytes, num_held_out: int | None = 1) -> tuple[str, ...]:
    with pytest.raises(PromptsError) as error:
        parse_jsonl(data, "prompts.jsonl", num_held_out)
    return error.value.problems


def test_grammar_is_split_once_and_for_all() -> None:
    prompts = compose(192)
    held_out = {p.text for p in prompts if p.split == "held_out"}
    assert (len(prompts), len(held_out)) == (432, 192)
    texts = [p.text for p in prompts]
    lowest = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())[:192]
    assert held_out == set(lowest)
    backwards = split_by_hash(texts[::-1], 192)
    assert {p.text for p in backwards if p.split == "held_out"} == held_out
    assert len({p.id for p in prompts}) == 432
    # A larger held-out set contains the smaller: prompts never change sides for having more.
    assert {p.text for p in compose(200) if p.split == "held_out"} > held_out


def test_four_splits_by_rank_of_the_hash_and_held_out_does_not_depend_on_the_others() -> None:
    texts = [f"ball {number}" for number in range(30)]
    split = {p.text: p.split for p in split_by_hash(texts, 10, 5, 8)}
    ranked = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    wanted = ["held_out"] * 10 + ["tuning"] * 5 + ["train"] * 8 + ["spare"] * 7
    assert [split[text] for text in ranked] == wanted
    fewer = {p.text: p.split for p in split_by_hash(texts, 10)}
    assert {t for t in texts if fewer[t] == "held_out"} == set(ranked[:10])
    with pytest.raises(PromptsError, match=r"num_tuning 5, prompts\.num_train 16"):
        split_by_hash(texts, 10, 5, 16)


@pytest.mark.parametrize("num_held_out", [0, 3, 4])
def test_a_split_leaves_both_sides_something(num_held_out: int) -> None:
    with pytest.raises(PromptsError, match="num_held_out"):
        split_by_hash(["a", "b", "c"], num_held_out)


def test_file_and_back(tmp_path: Path) -> None:
    prompts = compose(100)
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(to_jsonl(prompts))
    assert read_jsonl(path) == prompts
    assert to_jsonl(read_jsonl(path)) == path.read_bytes()


def test_text_stays_literal() -> None:
    funny = [
        "${oc.env:HOME}",
        "$(rm -rf ~)",
        "<script>",
        "{{7*7}}",
        "%(x)s",
        "\u4e2d\u6587 \U0001f600",
    ]
    data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in funny)
    assert [p.text for p in parse_jsonl(data, "x", 2)] == funny


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        (" \u3000 ", "empty"),
        ("a\x00b", "U+0000 at position 2"),
        ("a\x1b[31mb", "U+001B"),
        ("a\nb", "U+000A"),
        ("a\u202eb", "U+202E"),  # right-to-left override
        ("a\u200bb", "U+200B"),  # zero width space
        ("a\u2028b", "U+2028"),
        ("a\ud800b", "U+D800"),
        ("\ufeffa", "U+FEFF"),
        (" a", "white space"),
        ("a ", "white space"),
        ("x" * (MAX_CHARACTERS + 1), f"{MAX_CHARACTERS + 1} characters"),
    ],
)
def test_text_that_hides_or_breaks_something(text: str, told: str) -> None:
    wrong = check_text(text)
    assert wrong is not None
    assert told in wrong


@pytest.mark.parametrize(
    "text", ["a", "x" * MAX_CHARACTERS, "\u0645\u06cc\u200c\u0631\u0648\u0645"]
)
def test_text_that_is_fine(text: str) -> None:
    assert check_text(text) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"not json", "not JSON"),
        (b'{"text": "a"', "not JSON"),
        (b'"just a string"', "a str, not an object"),
        (b"[1]", "a list, not an object"),
        (b"null", "not an object"),
        (b"{}", "no text"),
        (b'{"prompt": "a"}', "unknown key 'prompt'"),
        (b'{"text": 5}', "text is a int"),
        (b'{"text": null}', "not a string"),
        (b'{"text": "a", "text": "b"}', "written twice"),
        (b'{"text": "a", "split": "test"}', "train, spare, tuning or held_out"),
        (b'{"text": "a", "id": "0123"}', "the text was changed"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 14: 0xE9)"),
        (b'\xef\xbb\xbf{"text": "a"}', "byte order mark"),
        (b'{"text": "\\u0000"}', "U+0000"),
        (b'{"text": "\\ud800"}', "U+D800"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": NaN}', "text is a float"),
    ],
)
def test_a_bad_line_is_named(line: bytes, told: str) -> None:
    good = b'{"text": "good"}\n'
    (problem,) = problems(good + line + b"\n" + b'{"text": "other"}\n')
    assert problem.startswith("prompts.jsonl:2: ")
    assert told in problem


def test_all_problems_are_told_at_once() -> None:
    told = problems(b'{"text": ""}\nnope\n{"text": "a"}\n{"text": "a"}\n')
    assert [line.split(":")[1] for line in told] == ["1", "2", "4"]
    many = problems(b"nope\n" * 200)
    assert len(many) == 200
    with pytest.raises(PromptsError, match=f"and {200 - MAX_PROBLEMS} more"):
        parse_jsonl(b"nope\n" * 200, "prompts.jsonl", 1)


def test_files_without_prompts() -> None:
    assert "no prompts" in problems(b"")[0]
    assert "no prompts" in problems(b"\n\r\n \n")[0]


def test_windows_line_ends_and_a_missing_last_one() -> None:
    assert [p.text for p in parse_jsonl(b'{"text": "a"}\r\n{"text": "b"}', "x", 1)] == ["a", "b"]


def test_split_is_given_for_all_or_for_none() -> None:
    some = b'{"text": "a", "split": "train"}\n{"text": "b"}\n'
    assert "prompts.jsonl:2: has no split" in problems(some)[0]
    assert "no line has a split" in problems(b'{"text": "a"}\n', None)[0]
    given = b'{"text": "a", "split": "train"}\n{"text": "b", "split": "held_out"}\n'
    assert [p.split for p in parse_jsonl(given, "x")] == ["train", "held_out"]


def test_id_is_of_the_text() -> None:
    text = "a ball"
    line = json.dumps({"id": prompt_id(text), "text": text, "split": "train"}).encode()
    assert parse_jsonl(line, "x")[0].id == prompt_id(text)


def test_rounds_walk_the_whole_split_before_any_prompt_returns() -> None:
    prompts = compose(192)
    seen = [p.id for r in range(15) for p in prompts_of_round(prompts, "train", 64, 1, r)]
    assert sorted(seen[:240]) == sorted(p.id for p in prompts if p.split == "train")
    assert sorted(seen) == sorted(4 * seen[:240])
    assert seen[:240] != seen[240:480]  # another order each time
    assert prompts_of_round(prompts, "train", 64, 2, 0) != prompts_of_round(
        prompts, "train", 64, 1, 0
    )


def test_a_split_without_prompts_is_refused() -> None:
    train = [p for p in compose(192) if p.split == "train"]
    with pytest.raises(PromptsError, match="held_out"):
        prompts_of_round(train, "held_out", 4, 1, 0)


def test_a_category_travels_with_its_prompt_whoever_splits() -> None:
    lines = [
        json.dumps({"text": f"a ball number {n}", "category": f"kind {n % 2}"}).encode()
        for n in range(6)
    ]
    read = parse_jsonl(b"\n".join(lines), "p.jsonl", num_held_out=2)
    assert {p.text: p.category for p in read} == {
        f"a ball number {n}": f"kind {n % 2}" for n in range(6)
    }
    assert parse_jsonl(to_jsonl(read), "p.jsonl") == read
    with pytest.raises(PromptsError, match="category: text is empty"):
        parse_jsonl(b'{"text": "a ball", "split": "train", "category": " "}', "p.jsonl")
