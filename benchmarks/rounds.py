"""Cost of a look at a campaign's record for MLflow, at 5 and at 40 rounds.

The look is what the recorder does every five seconds. Target: files opened do not grow with the
rounds, and 40 rounds take at most 50 ms. `python -m benchmarks.rounds`
"""

import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from afd.artifacts import ArtifactRef
from afd.runtime.request import StageRequest
from afd.store import write_json
from flows.mlflow_runs.facts import note_begun, read_facts
from flows.mlflow_runs.run_ids import RunIds, round_key, stage_key

STAGES_A_ROUND = 6
REPEATS = 20


def campaign(folder: Path, num_rounds: int) -> RunIds:
    """Write the records of a campaign whose stages are all finished."""
    ids = RunIds(folder)
    (folder / "rounds").mkdir()
    for index in range(num_rounds):
        made: dict[str, object] = {}
        for number in range(STAGES_A_ROUND):
            ref = ArtifactRef(kind="rollouts", fingerprint=f"{index * 100 + number:064d}"[::-1])
            made[f"role_{number}"] = ref.model_dump()
            ids.write(stage_key(ref), run_id="0" * 32, state="finished", step=100)
            request = StageRequest(
                stage="prompts", params={"seed": index * 100 + number}, inputs={}
            )
            note_begun(folder, request, index, index)
        write_json(folder / "rounds" / f"{index:03d}.json", made)
        ids.write(round_key(index), run_id="1" * 32, state="finished")
    return ids


def main() -> None:
    for num_rounds in (5, 40):
        with tempfile.TemporaryDirectory() as place:
            ids = campaign(Path(place), num_rounds)

            def look(folder: Path = Path(place), ids: RunIds = ids) -> None:
                read_facts(folder)
                ids.entries()

            look()
            begun = time.perf_counter()
            for _ in range(REPEATS):
                look()
            took_ms = (time.perf_counter() - begun) / REPEATS * 1000
            with patch.object(
                Path, "read_bytes", autospec=True, side_effect=Path.read_bytes
            ) as one:
                look()
            print(f"{num_rounds:3} rounds: {took_ms:6.1f} ms a look, {one.call_count} files opened")
    print("target: 50 ms at 40 rounds, as many files opened as at 5")


if __name__ == "__main__":
    main()
