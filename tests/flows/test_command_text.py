"""What a person is told to type works where they stand."""

from pathlib import Path

import pytest

from flows.command_text import command


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ("here/.venv/bin/afd", ".venv/bin/afd"),
        ("bin/afd", "../bin/afd"),
        ("on-path/afd", "afd"),
        ("some/prefect/engine.py", "../venv/bin/afd"),
    ],
)
def test_a_command_names_the_program_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, said: str
) -> None:
    program = tmp_path / called
    program.parent.mkdir(parents=True)
    program.touch(0o755)
    (tmp_path / "here").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "on-path"))
    beside = tmp_path / "venv" / "bin"
    beside.mkdir(parents=True)
    (beside / "afd").touch(0o755)
    monkeypatch.setattr("sys.executable", str(beside / "python"))
    monkeypatch.setattr("sys.argv", [str(program), "campaign"])
    here = tmp_path / "here"
    assert command("ui", "--name", "x", runs=here / "runs", store=Path("store")) == (
        f"{said} ui --name x"
    )
    assert command("show", "ab", runs=here / "my runs", store=tmp_path / "s") == (
        f"{said} show ab --runs 'my runs' --store ../s"
    )
    assert command("round", cluster=here / "params/cluster/local.yaml") == f"{said} round"
    assert (
        command("round", cluster=tmp_path / "mine.yaml") == f"{said} round --cluster ../mine.yaml"
    )
