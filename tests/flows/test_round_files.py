"""Files of rounds: a damaged one is named with its cure and counts as unfinished."""

from pathlib import Path

import pytest

from afd.artifacts import ArtifactRef
from afd.store import StoreError, write_json
from flows.commands.operate import print_status
from flows.round_files import damaged_rounds, known_round, read_round
from tests.flows.conftest import PARAMS

REF = ArtifactRef(kind="student_weights", fingerprint="ab" * 32)
DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"3",
    b'{"student": "x"}',
    b'{"student": {"kind": "student"}}',
    b"\xff",
]


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "demo"
    (folder / "rounds").mkdir(parents=True)
    (folder / "params.yaml").write_text(PARAMS.read_text())
    write_json(folder / "rounds" / "000.json", {"student": REF.model_dump()})
    return folder


def test_a_round_is_read_as_it_was_written(campaign: Path) -> None:
    assert read_round(campaign / "rounds" / "000.json") == {"student": REF}
    assert read_round(campaign / "rounds" / "001.json") is None
    assert known_round(campaign / "rounds" / "001.json") == {}
    assert damaged_rounds(campaign) == {}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named_with_its_cure(
    campaign: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = campaign / "rounds" / "001.json"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"001\.json: damaged; remove it and run the same command"):
        read_round(file)
    assert known_round(file) == {}
    assert list(damaged_rounds(campaign)) == [file]
    print_status(campaign.parent, "demo")
    shown = capsys.readouterr().out
    assert "1 of 2 rounds" in shown
    assert "001.json: damaged; remove it" in shown.replace("\n", "")
