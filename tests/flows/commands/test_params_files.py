"""`afd params` and `afd init`: values with their sources, and a folder that starts a campaign."""

import json
from pathlib import Path

import pytest
import yaml

from afd.config import Cluster, Params
from afd.params import ParamsError, load_params
from afd.runtime.outcome import RefusedError
from flows.cli import app
from tests.flows.conftest import CLUSTER, PROJECT

POCKET = PROJECT / "params" / "pocket.yaml"
BCE = PROJECT / "params" / "ablations" / "bce.yaml"


def typed(*words: str | Path) -> None:
    app(list(map(str, words)), exit_on_error=False, result_action="return_value")


def test_values_are_shown_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("params", "show", POCKET, "--overlay", BCE, "--set", "update.beta=0.2")
    typed(*given)
    said = capsys.readouterr().out
    by_field = {line.split(":")[0].strip(): line.partition("# ")[2] for line in said.splitlines()}
    assert by_field["loss"] == str(BCE)
    assert by_field["beta"] == "--set"
    assert by_field["crf"] == str(POCKET)
    assert by_field["shard_blocks"] == "default"
    values = yaml.safe_load(said)  # it is YAML, and the very params that a campaign takes
    expected = load_params(Params, POCKET, [BCE], ["update.beta=0.2"]).model_dump(mode="json")
    assert values == expected
    typed(*given, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["values"] == expected
    assert found["sources"]["fit.loss"] == str(BCE)


def test_a_cluster_file_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    typed("params", "show", CLUSTER)
    values = yaml.safe_load(capsys.readouterr().out)
    assert Cluster.model_validate(values) == load_params(Cluster, CLUSTER)


def test_what_a_campaign_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="num_held_out is 1000"):
        typed("params", "show", POCKET, "--set", "prompts.num_held_out=1000")


def test_an_overlay_is_not_a_campaign() -> None:
    with pytest.raises(ParamsError, match=r"looks like an overlay.*--overlay .*bce\.yaml"):
        load_params(Params, BCE)


def test_errors_of_set_stand_under_set() -> None:
    with pytest.raises(ParamsError) as alone:
        load_params(Params, POCKET, (), ["update.beta=-1", "sed=2"])
    assert str(alone.value).startswith("--set: 2 problem(s)")
    assert "--set update.beta=-1: update.beta: " in str(alone.value)
    assert "--set sed: sed: unknown field; did you mean 'seed'?" in str(alone.value)
    key = "sk-" + "a1" * 12
    with pytest.raises(ParamsError) as secret:
        load_params(Params, POCKET, (), [f"teacher.kind={key}"])
    assert key not in str(secret.value)


def test_a_folder_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "my videos"
    typed("init", own, "--template", "tiny")
    said = capsys.readouterr().out
    for line in ("plan", "--dry-run", "campaign my-videos"):
        assert line in said
    params, cluster = own / "params.yaml", own / "cluster.yaml"
    assert load_params(Params, params) == load_params(Params, PROJECT / "params" / "tiny.yaml")
    assert "#" in params.read_text().split("schema_version")[0].split("\n", 1)[1]  # comments stay
    for file in (params, cluster):
        assert (own / file.read_text().splitlines()[0].partition("=")[2]).is_file()
    paths = ("--runs", tmp_path / "runs", "--store", tmp_path / "store")
    typed("campaign", "x", "--params", params, "--cluster", cluster, "--dry-run", *paths)
    before = params.read_bytes()
    with pytest.raises(RefusedError, match="nothing was written"):
        typed("init", own)
    assert params.read_bytes() == before
    with pytest.raises(RefusedError, match="pocket"):
        typed("init", tmp_path / "other", "--template", "nope")
