"""One identity: the same in every process, another for every change that changes a result."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afd.config import Cluster, Params
from afd.fingerprint import canonical, fingerprint
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.stages import requests

PARAMS = Path(__file__).parents[2] / "params"
NO_IDENTITY = {
    "schema_version",  # one value; a second one would be another program
    "fit.max_skipped_steps",  # how long a fit goes on, not what it is
}
OTHER_CHOICE = {  # a change of kind that leaves the rest of the file valid
    "discriminator.kind": None,
    "prompts.kind": None,
    "student.codec.kind": None,
    "student.family": None,
    "teacher.kind": None,
    "teacher.training_permitted": None,  # a permission, and without it there is no campaign
    "frame_size": None,  # 16 is the only size of the pocket world
    "fit.loss": "binary_cross_entropy",
    "canonical.chroma": "420",
    "canonical.longer": "first",
    "canonical.shorter": "loop",
    "canonical.aspect": "crop",
    "rollout.refresh": "never",
    "rollout.behaviour": "average",
    "update.objective": "reverse_chain",
    "update.context": "noisy",
    "evaluate.split": "tuning",
    "evaluate.evaluators": [
        {
            "name": "judge",
            "version": "1",
            "command": ["judge", "{videos}", "{answer}"],
            "weights": None,
            "metrics": [
                {"name": "q", "goal": "high", "low": 0.0, "high": 1.0, "independent": True}
            ],
            "when": "final",
            "timeout_min": 1.0,
            "variables": [],
        }
    ],
    "prompts.num_train": 5,
    "student.prediction": "velocity",
    "student.codec.components": 5,
    "update.advantage_scope": "batch",
    "update.scaling": "velocity",
    "update.times": "uniform",
    "warmstart.times": "steps",
}


def params() -> Params:
    return load_params(Params, PARAMS / "tiny.yaml")


def campaign(of: Params) -> list[StageRequest]:
    """Every request of a campaign of two rounds."""
    prompts = requests.prompts(of)
    held_out = requests.harvest_held_out(of, prompts.output)
    base = requests.warmstart(of, prompts.output)
    asked, student, judge = [prompts, held_out, base], base.output, None
    for index in range(2):
        clips = requests.harvest_round(of, prompts.output, index)
        behaviour = student if of.rollout.refresh == "every_round" else base.output
        rollouts = requests.rollout(of, prompts.output, behaviour, index)
        fit = requests.fit(of, [clips.output], [rollouts.output], judge, index)
        update = requests.update(
            of, [clips.output], rollouts.output, fit.output, student, base.output, index
        )
        look = requests.evaluate_round(of, prompts.output, update.output, base.output)
        asked += [clips, rollouts, fit, update, look]
        student, judge = update.output, fit.output
    final = requests.evaluate_final(of, prompts.output, student, base.output, held_out.output)
    return [*asked, final]


def identities(of: Params) -> list[str]:
    return [asked.output.fingerprint for asked in campaign(of)]


def leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def other(field: str, value: Any) -> Any:  # noqa: PLR0911 (one return a kind of value)
    """Another value of the same field that the schema accepts."""
    if field in OTHER_CHOICE:
        return OTHER_CHOICE[field]
    match value:
        case bool():
            return not value
        case int() if field in ("num_frames", "teacher.size"):
            return 2 * value
        case int() if field == "prompts.num_held_out":
            return value + 1
        case int() if field in ("evaluate.num_prompts", "student.codec.frames"):
            return value // 2
        case int() if field in ("student.head_dim", "student.freq_dim"):
            return value + 2
        case int():
            return value + 1
        case float():
            step = 1e-4 if field.endswith(".low") else -1e-4
            return value + (step if value > 0 else 1e-4)
        case [float(), *_]:
            return [value[0] / 2, *value[1:]]
        case [*_]:
            return [*value, 99]
        case _:
            raise AssertionError(f"{field}: say in OTHER_CHOICE how it changes from {value!r}")


LEAVES = [
    (field, value)
    for field, value in leaves(params().model_dump(mode="json"))
    if field not in NO_IDENTITY
    and not field.startswith("update.memory.")  # how memory is found for the same sums
    and OTHER_CHOICE.get(field, "") is not None
]


@pytest.mark.parametrize(("field", "value"), LEAVES, ids=[field for field, _ in LEAVES])
def test_every_value_of_params_is_identity(field: str, value: Any) -> None:
    values = params().model_dump(mode="json")
    *sections, name = field.split(".")
    section = values
    for part in sections:
        section = section[part]
    section[name] = other(field, value)
    if field in ("teacher.size", "canonical.magnify"):  # one follows the other
        size = 8 * 16 if field == "teacher.size" else 16 * values["canonical"]["magnify"]
        values["teacher"]["size"], values["canonical"]["magnify"] = size, size // 16
    if name == "low":  # both ends at once where they are one value
        section["high"] = max(section["high"], section["low"])
    if name == "high":
        section["low"] = min(section["high"], section["low"])
    changed = Params.model_validate(values)
    report = (requests.report(of, campaign(of)[-1].output, []).output for of in (params(), changed))
    assert len(set(report)) == 2
    assert identities(changed) != identities(params())


def test_circumstance_is_no_identity() -> None:
    """No request can be built from Cluster, and none of its values is in one."""
    named = {name for asked in campaign(params()) for name, _ in leaves(asked.params)}
    fields = set(Cluster.model_fields)
    assert {"executor", "allocation", "num_threads", "slurm", "resources"} <= fields
    assert not {name.rpartition(".")[2] for name in named} & fields


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    program = (
        "import json, sys; from tests.afd.test_fingerprint import identities, params;"
        "print(json.dumps(identities(params())))"
    )
    for hash_seed in ("0", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=PARAMS.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert json.loads(done.stdout) == identities(params())


def test_the_order_of_keys_is_no_identity_and_the_order_of_a_list_is() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint(-0.0) == fingerprint(0.0)
    assert len({fingerprint(value) for value in (1, "1", None, [1], {"1": 1}, 1.5)}) == 6


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [float("nan")]}, r"\$\.a\[0\]"),
        ({"a": float("inf")}, r"\$\.a"),
        ({"a": {1: 2}}, r"\$\.a"),
        ({"a": Path("x")}, r"\$\.a"),
        ({"a": {1, 2}}, r"\$\.a"),
        (b"bytes", r"\$"),
    ],
)
def test_what_has_no_one_spelling_is_refused_by_its_path(value: Any, place: str) -> None:
    with pytest.raises((TypeError, ValueError), match=place):
        canonical(value)
