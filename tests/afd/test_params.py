"""Refused params: everything at once, each with its dotted path, the rule and a cure."""

from pathlib import Path

import pytest

from afd.config import Params
from afd.params import ParamsError, load_params, sources
from flows.paths import saved_params

PARAMS = Path(__file__).parents[2] / "params"
POCKET = PARAMS / "pocket.yaml"


def refused(*overrides: str, file: Path = POCKET) -> tuple[str, ...]:
    with pytest.raises(ParamsError) as error:
        load_params(Params, file, (), overrides)
    return error.value.problems


def test_everything_wrong_is_reported_at_once() -> None:
    problems = refused(
        "update.bta=0.2",
        "update.beta=.nan",
        "update.prior=-1",
        "teacher.look.grain=-0.1",
        "fit.loss=hinge",
        "num_rounds=many",
        "prompts.num_held_ot=3",
        "evaluate.noise_seeds=[1,1]",
        "rollout.group_size=2",
        "frame_size=32",
    )
    assert set(problems) == {
        "update.bta: unknown field; did you mean 'beta'?",
        "update.beta: must be a finite number, got nan; meaning: Strength of the contrast between "
        "the new and the old velocity, above 0",
        "update.prior: must be 0 or more, got -1; meaning: Weight of the pull to the reference "
        "student (lambda_prior), 0 or more, on latents of unit variance",
        "teacher.look.grain: must be 0 or more, got -0.1; meaning: Standard deviation of the "
        "sensor's grain, after canonicalisation, 0 or more",
        "fit.loss: must be 'bradley_terry' or 'binary_cross_entropy', got 'hinge'",
        "num_rounds: must be a whole number, got 'many'; meaning: Rounds of the campaign, 1 or "
        "more",
        "prompts.num_held_ot: unknown field; did you mean 'num_held_out'?",
        "evaluate.noise_seeds: must be distinct and not empty, got [1, 1]",
        "update.num_best 2 + update.num_worst 2 exceed rollout.group_size 2",
        "frame_size 32 must be 16: the pocket world films 16x16 px",
        "canonical.magnify 4 x frame_size 32 must be teacher.size 64: rollouts are filmed as large "
        "as the teacher's clips",
    }


def test_a_rule_over_an_unsound_field_is_not_reported() -> None:
    assert refused("rollout.group_size=x") == (
        "rollout.group_size: must be a whole number, got 'x'; meaning: Rollouts of a prompt, 2 or "
        "more",
    )
    assert refused("rollout=3")[0].startswith("rollout: ")


def test_an_unknown_kind_is_named_by_its_field(tmp_path: Path) -> None:
    assert refused("prompts.kind=grammer") == (
        "prompts.kind: must be one of 'grammar', 'file', got 'grammer'; did you mean 'grammar'?",
    )
    file = tmp_path / "params.yaml"
    file.write_text(POCKET.read_text().replace("kind: grammar", ""))
    assert refused(file=file) == ("prompts.kind: missing; add it",)
    file.write_text(POCKET.read_text().replace("kind: grammar", "kind: file"))
    assert refused(file=file) == ("prompts.path: missing; add it",)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    lines = POCKET.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if "num_clips:" not in line))
    assert refused(file=file) == ("warmstart.num_clips: missing; add it",)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${seed}b"])
def test_interpolation_is_refused_and_never_resolved(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(POCKET.read_text().replace('training_permitted: "yes"', f"more: '{text}'"))
    problems = refused(file=file)
    assert any(p.startswith("teacher.more: interpolation is not allowed") for p in problems)
    assert "teacher.training_permitted: missing; add it" in problems
    assert str(Path.home()) not in "\n".join(problems)


def test_interpolations_in_a_circle_or_to_nowhere_are_named_by_their_fields(tmp_path: Path) -> None:
    file, overlay = tmp_path / "params.yaml", tmp_path / "overlay.yaml"
    text = POCKET.read_text().replace("\nseed: ", "\nseed: ${num_rounds} # ")
    file.write_text(text.replace("\nnum_rounds: ", "\nnum_rounds: ${seed} # "))
    overlay.write_text("teacher: {kind: '${nope}'}\nprompts: ${oc.env:HOME}\n")
    with pytest.raises(ParamsError) as error:
        load_params(Params, file, [overlay])
    for field in ("seed", "num_rounds", "teacher.kind", "prompts"):
        assert any(
            problem.startswith(f"{field}: interpolation is not allowed")
            and problem.endswith("; write the literal value")
            for problem in error.value.problems
        ), field
    assert set(sources(file, [overlay])) >= {"seed", "num_rounds", "teacher.kind", "prompts"}
    assert refused("seed=${") == ("seed: interpolation is not allowed; write the literal value",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"seed: 1\n" * 40_000, "is larger than 256 KB"),
        (b"seed: " + b"[" * 3000, "is nested too deeply"),
        (b"seed: " + b"9" * 5000, "cannot be read as YAML"),
        (b"5", "cannot be read as YAML"),
        (b"seed: !!set {a}", "cannot be read as YAML"),
    ],
    ids=["large", "deep", "digits", "value", "set"],
)
def test_whatever_a_file_holds_is_the_usual_error(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    assert refused(file=file)[0].startswith(problem)
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "params.yaml").write_bytes(content)  # edited by hand
    with pytest.raises(ParamsError, match=problem):
        saved_params(tmp_path / "campaign")


def test_a_value_of_the_command_line_is_bounded_too() -> None:
    assert refused("seed=" + "[" * 2000) == ("is nested too deeply; write it flatter",)
    assert refused("seed=" + "9" * 5000)[0].startswith("cannot be read as YAML")
    assert any(problem.startswith("seed: must be a whole") for problem in refused("seed=???"))


@pytest.mark.parametrize(
    "secret",
    [
        *("sk-abcdefghijklmnop1234", "AKIAABCDEFGHIJKLMNOP", "ghp_abcdefghijklmnopqrst12"),
        *("Bearer xyz", "hf_abcdefghijklmnopqrstuvwxyz", "https://me:word@host/mlflow"),
        *("AIzaSyA1234567890abcdefghijklmnopqrstu", "pnu_abcdefghijklmnopqrstuv"),
    ],
)
def test_a_pasted_secret_is_refused_and_not_repeated(secret: str) -> None:
    problems = refused(f"teacher.api_key={secret}", "fit.loss=" + secret)
    assert any(p.startswith("teacher.api_key: looks like a secret") for p in problems)
    assert any(p.startswith("fit.loss: looks like a secret") for p in problems)
    assert secret not in "\n".join(problems)


def test_what_no_pattern_knows_is_refused_where_only_a_variables_name_may_stand() -> None:
    problems = refused("teacher.api_key=hunter2")
    assert any(p.startswith("teacher.api_key: looks like a secret") for p in problems)
    assert "hunter2" not in "\n".join(problems)


def test_aliases_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    (problem,) = refused(file=file)
    assert "aliases" in problem


def test_a_missing_file_names_those_beside_it() -> None:
    (problem,) = refused(file=PARAMS / "poket.yaml")
    assert "there is no such file" in problem
    assert "pocket.yaml" in problem


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", b"- 1\n- 2\n", b"a: 1\na: 2\n"])
def test_broken_yaml_is_refused_with_its_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ParamsError, match=r"broken\.yaml"):
        load_params(Params, file)


def test_an_override_without_a_value_is_refused() -> None:
    assert refused("seed") == ("'seed': write it as dotted.field=value",)


def test_the_last_one_wins(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("seed: 5\nupdate: {beta: 0.3}\n")
    params = load_params(Params, POCKET, [overlay], ["seed=7"])
    assert (params.seed, params.update.beta, params.update.num_best) == (7, 0.3, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is a folder"), (b"a:\n\tb: 1\n", "spaces, not with tabs"), (b"\xff\xfe\x00", "UTF-8")],
)
def test_a_file_that_is_no_yaml_text_is_refused_in_plain_words(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "params.yaml"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ParamsError, match=words):
        load_params(Params, file)
