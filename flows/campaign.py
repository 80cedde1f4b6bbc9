"""A campaign: a start, rounds in sequence, a final evaluation, a report.

Run again, it goes on from the last thing that is whole; run after its end, it computes nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from afd.artifacts import Artifact, ArtifactRef
from afd.config import Params
from afd.evaluation import targets
from afd.runtime.outcome import RefusedError
from afd.stages import requests
from afd.store import told, write_atomic, write_json
from flows import decisions, versions
from flows.invocation import command
from flows.places import Places
from flows.round import play_round, play_start
from flows.session import Session
from flows.standing import Standing
from flows.tasks import Played, Stages

SUMMARY, REPORT_PAGE = "summary.json", "report.html"


@dataclass(frozen=True)
class Finished:
    """What a campaign leaves for people."""

    summary: Path
    report: Path
    student: ArtifactRef


def run_start(session: Session) -> Standing:
    """Make and keep what comes before the first round."""
    standing = play_start(Played(session, None), session.params)
    made = {
        "prompt_set": standing.prompt_set,
        "held_out_clips": standing.held_out_clips,
        "student": standing.reference,
        **({"white_box": standing.white_box} if standing.white_box else {}),
    }
    session.close_round("start", made)
    return standing


def run_round(session: Session, standing: Standing) -> Standing:
    """Make and keep one round; raises PausedError while an alarm waits for a person."""
    index = len(standing.rounds)
    decisions.refuse_stopped(standing.course, index)
    refuse_paused(session, standing)
    after = play_round(Played(session, index), session.params, standing)
    decision = decisions.keep(session.site.folder, index, after.course)
    session.close_round(f"{index:03d}", after.rounds[-1])
    session.tell(decision)
    session.recorder.sync_soon()
    session.dispatch.end_round()
    return after


def refuse_paused(session: Session, standing: Standing) -> None:
    """Raises PausedError after a round whose alarm waits for a person."""
    places = Places(session.site.folder.parent, session.site.store.root)
    decisions.refuse_paused(session.name, places, len(standing.rounds) - 1, standing.course)


def run_campaign(
    session: Session, play: Callable[[Session, Standing], Standing] = run_round
) -> Finished:
    """Everything from prompts to report; `play` runs one round (Prefect runs it as a flow)."""
    params = session.params
    was_complete = session.is_complete
    standing = run_start(session)
    while not standing.is_over(params):
        standing = play(session, standing)
    refuse_paused(session, standing)
    final, page = play_final(Played(session, None), params, standing)
    ended = {"evaluation": final, "report": page}
    if params.evaluate.horizon is not None:
        ended["horizon"] = play_horizon(Played(session, None), params, standing)
    session.close_round("final", ended)
    left = _leave(session, standing, ended)
    if not was_complete:  # a killed one costs `dvc repro` a look at the store, not a computation
        versions.commit_pipeline(session.site.folder, params)
    return left


def chosen_round(session: Session, index: int | None) -> int:
    """`index`, or the next round; raises RefusedError when there is no such round."""
    chosen = session.next_round if index is None else index
    places = Places(session.site.folder.parent, session.site.store.root)
    refuse_no_round(session.name, session.params, places, chosen, is_next=index is None)
    return chosen


def refuse_no_round(
    name: str, params: Params, places: Places, index: int, *, is_next: bool = False
) -> None:
    """Raises RefusedError for a round that the campaign does not have."""
    last = params.num_rounds - 1
    if 0 <= index <= last:
        return
    goes_on = command("campaign", "--name", name, runs=places.runs, store=places.store)
    raise RefusedError(
        f"round {index}: campaign {name!r} has rounds 0 to {last}"
        + ("; all of them are finished" if is_next else "")
        + f"\n  {goes_on}    goes on with what is left"
    )


def run_one_round(session: Session, index: int | None = None) -> Standing:
    """Round `index` (default: the next one), with whatever it needs from before it."""
    chosen = chosen_round(session, index)
    standing = run_start(session)
    for _ in range(chosen):  # finished ones cost a look at the store
        standing = run_round(session, standing)
    return run_round(session, standing)


def play_final(
    stages: Stages, params: Params, standing: Standing
) -> tuple[ArtifactRef, ArtifactRef]:
    """After the last round: evaluation on all held-out prompts, and the report on everything."""
    final = stages.make(
        requests.evaluate_final(
            params,
            standing.prompt_set,
            standing.student,
            standing.reference,
            standing.held_out_clips,
        )
    )
    page = stages.make(requests.report(params, final, [dict(made) for made in standing.rounds]))
    return final, page


def play_horizon(stages: Stages, params: Params, standing: Standing) -> ArtifactRef:
    """After the last round: the same student on clips longer than any it was trained on."""
    return stages.make(
        requests.evaluate_horizon(params, standing.prompt_set, standing.student, standing.reference)
    )


def _leave(session: Session, standing: Standing, ended: Mapping[str, ArtifactRef]) -> Finished:
    """Copy what people open out of the store."""
    folder, store = session.site.folder, session.site.store
    summary = json.loads(store.load(ended["evaluation"]).file(SUMMARY).read_bytes())
    made = [standing.prompt_set, standing.held_out_clips, standing.reference]
    made += [ref for one in standing.rounds for ref in one.values()]
    spent = _spent(store.load(ref) for ref in [*made, *ended.values()])
    left = Finished(folder / SUMMARY, folder / REPORT_PAGE, standing.student)
    with told(folder):
        met = [asdict(target) for target in targets.judge(summary)]
        write_json(left.summary, summary | {"stages": spent, "targets": met})
        write_atomic(left.report, store.load(ended["report"]).file(REPORT_PAGE).read_bytes())
    return left


def _spent(artifacts: Iterator[Artifact]) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of each stage, over the campaign."""
    spent: dict[str, dict[str, float]] = {}
    for artifact in artifacts:
        manifest = artifact.manifest
        entry = spent.setdefault(manifest.stage, {"wall_s": 0.0, "cpu_s": 0.0})
        entry["wall_s"] = round(entry["wall_s"] + manifest.wall_s, 3)
        entry["cpu_s"] = round(entry["cpu_s"] + manifest.cpu_s, 3)
    return spent
