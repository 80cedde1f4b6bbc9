"""Files of a long campaign: what was read stays known, what was replaced is read again."""

import json
from pathlib import Path

import pytest

from afd.artifacts import ArtifactRef
from afd.runtime.request import StageRequest
from afd.store import write_json
from flows.mlflow_runs.facts import note_begun, read_facts
from flows.mlflow_runs.run_ids import RunIds, round_key
from flows.round_files import known_round


def test_a_replaced_file_is_read_again_a_damaged_or_missing_one_is_none(tmp_path: Path) -> None:
    ids = RunIds(tmp_path)
    assert ids.read("campaign") == {}
    for number in range(3):  # within one tick of a coarse clock
        ids.write("campaign", run_id=str(number))
        assert ids.read("campaign")["run_id"] == str(number)
    ids.read("campaign")["run_id"] = "changed by a caller"
    assert ids.read("campaign") == {"run_id": "2"}
    file = tmp_path / "lineage" / "campaign.json"
    file.write_text('{"run_i')
    assert ids.read("campaign") == {}
    file.unlink()
    assert ids.read("campaign") == {}


@pytest.mark.parametrize("num_rounds", [2, 40])
def test_files_opened_for_a_sync_do_not_grow_with_the_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rounds: int
) -> None:
    request = StageRequest(stage="prompts", params={"seed": 1}, inputs={})
    ids = RunIds(tmp_path)
    (tmp_path / "rounds").mkdir()
    for index in range(num_rounds):
        ref = ArtifactRef(kind="rollouts", fingerprint=f"{index:064x}")
        write_json(tmp_path / "rounds" / f"{index:03d}.json", {"rollouts": ref.model_dump()})
        ids.write(round_key(index), run_id=str(index), state="finished")
    note_begun(tmp_path, request, 0, 1)
    opened: list[str] = []
    read_bytes = Path.read_bytes

    def counted(file: Path) -> bytes:
        opened.append(file.name)
        return read_bytes(file)

    monkeypatch.setattr(Path, "read_bytes", counted)

    def look() -> int:
        opened.clear()
        assert len(read_facts(tmp_path).closed_rounds) == num_rounds
        assert len(ids.entries()) == num_rounds
        return len([name for name in opened if name not in ("start.json", "final.json")])

    assert look() >= num_rounds  # a new process reads each once
    assert look() == 0
    ids.write(round_key(0), state="killed")
    assert look() <= 1
    file = tmp_path / "rounds" / "000.json"
    content = json.loads(read_bytes(file))
    write_json(file, content | {"student": content["rollouts"]})
    assert look() == 1
    assert known_round(file).keys() == {"rollouts", "student"}
