"""Nothing reaches sbatch that its allow-list does not match; every problem is told at once."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afd.config import Cluster
from afd.params import ParamsError, load_params, validate

FILES = Path(__file__).parents[2] / "params" / "cluster"
FLAGS = ("partition", "account", "qos", "reservation", "constraint", "exclude", "gpu_type")


SOUND = load_params(Cluster, FILES / "slurm.yaml").model_dump(mode="json")


def values() -> dict[str, Any]:
    return copy.deepcopy(SOUND)


@given(st.sampled_from(FLAGS), st.text())
def test_a_flag_is_one_plain_word_or_refused(name: str, value: str) -> None:
    given_values = values()
    given_values["slurm"][name] = value
    try:
        validate(Cluster, given_values, "given")
    except ParamsError as error:
        assert f"slurm.{name}" in str(error)
    else:
        assert value.isascii()
        assert value.isprintable()
        assert not set(value) & set("\"'\\#;$`<>{}!?= \n")


def test_ranks_need_jobs_of_their_own() -> None:
    """A worker's children share one node: asked for more it says so before anything starts."""
    chosen = ["allocation=round", "resources.fit.nodes=2", "resources.update.tasks_per_node=3"]
    with pytest.raises(ParamsError) as refused:
        load_params(Cluster, FILES / "slurm.yaml", (), chosen)
    told = str(refused.value)
    assert "resources.fit.nodes * tasks_per_node is 2, and must be 1 with allocation round" in told
    assert "choose allocation: stage, or 1 for fit and update" in told
    assert load_params(Cluster, FILES / "slurm.yaml", (), ["allocation=stage", *chosen[1:]])


@pytest.mark.parametrize("address", ["http://u:hunter2@host", "file:///mlruns", "http://h/?a=b"])
def test_mlflows_address_holds_no_password_and_is_not_repeated(address: str) -> None:
    given_values = values() | {"mlflow": address}
    with pytest.raises(ParamsError) as refused:
        validate(Cluster, given_values, "given")
    assert "mlflow: an address as in http://host:5000" in str(refused.value)
    assert address not in str(refused.value)


@given(st.text())
def test_a_setup_line_is_one_command_that_a_shell_reads_as_plain_words(line: str) -> None:
    given_values = values()
    given_values["slurm"]["setup"] = [line]
    try:
        validate(Cluster, given_values, "given")
    except ParamsError:
        return
    assert line.isascii()
    assert shlex.split(line) == line.split()
    assert not set(line) & set("\"'\\#;`<>&|(){}\n\r")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("account", "x\n#SBATCH --uid=0"),
        ("account", "-x"),
        ("partition", "a b"),
        ("setup", ["module load cuda; curl http://there"]),
        ("setup", ["#SBATCH --uid=0"]),
        ("python", ["python", "-c 'x'"]),
        ("scratch", "relative"),
        ("scratch", "/tmp/$(id)"),
        ("environment", ["AWS_SECRET_ACCESS_KEY"]),
        ("environment", ["A=B"]),
        ("sbatch_flags", ["--mem=0"]),
        ("sbatch_flags", ["--comment=mine"]),
        ("sbatch_flags", ["--exclusive --uid=0"]),
        ("sbatch_flags", ["-x"]),
        ("srun_flags", ["--container-image=a'b"]),
        ("srun_flags", ["--output=/dev/null"]),
        ("gpus_as", "socket"),
    ],
)
def test_refused(field: str, value: object) -> None:
    given_values = values()
    given_values["slurm"][field] = value
    with pytest.raises(ParamsError, match=rf"slurm\.{field}"):
        validate(Cluster, given_values, "given")


def test_the_words_of_a_site_pass_and_a_flag_with_a_field_names_it() -> None:
    given_values = values()
    container = "--container-image=docker://nvcr.io#nvidia/pytorch:24.01-py3"
    given_values["slurm"] |= {"srun_flags": [container, "--container-mounts=/a:/b:ro,/c:/d"]}
    given_values["slurm"] |= {"sbatch_flags": ["--exclusive", "--licenses=x:2"]}
    validate(Cluster, given_values, "given")
    given_values["slurm"]["sbatch_flags"] = ["--gpus-per-node=8"]
    with pytest.raises(ParamsError, match=r"has a field: .*slurm\.gpus_as: node"):
        validate(Cluster, given_values, "given")


def test_everything_that_is_wrong_is_told_at_once() -> None:
    wrong = ["slurm.qos=a b", "slurm.poll_s=0", "resources.rollout.mem_gb=-1", "slurm.partitio=x"]
    with pytest.raises(ParamsError) as caught:
        load_params(Cluster, FILES / "slurm.yaml", (), wrong)
    told = str(caught.value)
    assert "4 problem(s), nothing was started" in told
    assert "slurm.partitio: unknown field; did you mean 'partition'?" in told


@pytest.mark.parametrize("stage", ["prompts", "warmstart", "report", "worker"])
def test_only_what_can_be_shared_is(stage: str) -> None:
    for override in (f"resources.{stage}.num_parts=2", f"resources.{stage}.nodes=2"):
        with pytest.raises(ParamsError, match=stage):
            load_params(Cluster, FILES / "slurm.yaml", (), [override])
    load_params(Cluster, FILES / "slurm.yaml", (), ["resources.fit.nodes=2"])


def test_local_params_need_no_cluster_and_slurm_says_what_it_lacks() -> None:
    assert load_params(Cluster, FILES / "local.yaml").slurm is None
    with pytest.raises(ParamsError, match=r"slurm and resources .*params/cluster/slurm\.yaml"):
        load_params(Cluster, FILES / "local.yaml", (), ["executor=slurm"])
