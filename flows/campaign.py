"""A campaign: a start, rounds in sequence, a final evaluation, a report.

Run again, it goes on from the last thing that is whole; run after its end, it computes nothing.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from afd.artifacts import Artifact, ArtifactRef
from afd.config import Params
from afd.evaluation import targets
from afd.stages import request
from afd.stages.outcome import RefusedError
from afd.store import told, write_atomic, write_json
from flows import versions
from flows.invocation import command
from flows.round import Standing, run_round, run_start
from flows.session import Session
from flows.tasks import Played, Stages

SUMMARY, REPORT_PAGE = "summary.json", "report.html"


@dataclass(frozen=True)
class Finished:
    """What a campaign leaves for people."""

    summary: Path
    report: Path
    student: ArtifactRef


def run_campaign(
    session: Session, play: Callable[[Session, Standing], Standing] = run_round
) -> Finished:
    """Everything from prompts to report; `play` runs one round (Prefect runs it as a flow)."""
    params = session.params
    was_complete = session.is_complete
    standing = run_start(session)
    while len(standing.rounds) < params.num_rounds:
        standing = play(session, standing)
    final, page = play_final(Played(session, None), params, standing)
    session.close_round("final", {"evaluation": final, "report": page})
    left = _leave(session, standing, final, page)
    if not was_complete:  # a killed one costs `dvc repro` a look at the store, not a computation
        versions.commit_pipeline(session.site.folder, params)
    return left


def chosen_round(session: Session, index: int | None) -> int:
    """`index`, or the next round; raises RefusedError when there is no such round."""
    last = session.params.num_rounds - 1
    chosen = session.next_round if index is None else index
    if not 0 <= chosen <= last:
        site = session.site
        places = {"runs": site.folder.parent, "store": site.store.root}
        raise RefusedError(
            f"round {chosen}: campaign {session.name!r} has rounds 0 to {last}"
            + ("; all of them are finished" if index is None else "")
            + f"\n  {command('campaign', '--name', session.name, **places)}    "
            "goes on with what is left"
        )
    return chosen


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
        request.evaluate_final(
            params,
            standing.prompt_set,
            standing.student,
            standing.reference,
            standing.held_out_clips,
        )
    )
    page = stages.make(request.report(params, final, [dict(made) for made in standing.rounds]))
    return final, page


def _leave(session: Session, standing: Standing, final: ArtifactRef, page: ArtifactRef) -> Finished:
    """Copy what people open out of the store."""
    folder, store = session.site.folder, session.site.store
    summary = json.loads(store.load(final).file(SUMMARY).read_bytes())
    made = [standing.prompt_set, standing.held_out_clips, standing.reference]
    made += [ref for one in standing.rounds for ref in one.values()]
    spent = _spent(store.load(ref) for ref in [*made, final, page])
    left = Finished(folder / SUMMARY, folder / REPORT_PAGE, standing.student)
    with told(folder):
        met = [asdict(target) for target in targets.judge(summary)]
        write_json(left.summary, summary | {"stages": spent, "targets": met})
        write_atomic(left.report, store.load(page).file(REPORT_PAGE).read_bytes())
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
