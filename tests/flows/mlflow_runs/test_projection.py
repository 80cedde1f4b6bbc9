"""The projection without MLflow: a pure function of a campaign's files."""

from pathlib import Path

from flows.mlflow_runs import projection
from flows.mlflow_runs.run_ids import CAMPAIGN, round_key, stage_key
from tests.flows.campaign_on_disk import make_campaign, small_params


def test_equal_files_give_equal_records_and_a_number_stands_wherever_it_is_looked_for(
    tmp_path: Path,
) -> None:
    made = make_campaign(tmp_path, small_params(), num_rounds=2)
    index, _, artifact = next(m for m in made.made if m[0] == 1 and m[1].stage == "evaluate")

    def record() -> projection.Record:
        return projection.finished_stage(made.store.load(artifact.ref), index, None, {})

    first, second = record(), record()
    assert first._replace(contents=()) == second._replace(contents=())
    for one, other in zip(first.contents, second.contents, strict=True):
        assert one._replace(inputs=()) == other._replace(inputs=())
    key = stage_key(artifact.ref)
    assert [run.key for run in first.runs] == [round_key(1), key]  # parents first
    steps = {c.key: {p.step for p in c.metrics if p.name == "evaluate/gravity"} for c in first[2]}
    assert steps == {key: {0}, round_key(1): {0}, CAMPAIGN: {1}}
    assert first.states == [(key, "FINISHED", projection.ended_ms(artifact.manifest))]


def test_rows_of_a_curve_are_whole_lines_after_the_known_step() -> None:
    lines = [b'{"step": %d, "fit/loss": 0.5, "note": "x"}\n' % step for step in range(4)]
    rows = [("fit/loss", 0.5, step) for step in range(4)]
    assert projection.rows_of(b"".join(lines)) == rows
    assert projection.rows_of(b"".join(lines)[:-1]) == rows[:3]  # the last is being written
    assert projection.rows_of(b"".join(lines), after=1) == rows[2:]
    assert projection.rows_of(b"") == []
