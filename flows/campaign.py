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
from afd.store import disk_errors, write_atomic, write_json
from flows import alarm_log, dvc_tracking
from flows.baselines import play_round, play_start
from flows.command_text import command
from flows.paths import CampaignPaths
from flows.session import Session
from flows.state import CampaignState
from flows.tasks import ComputedStages, Stages

SUMMARY, REPORT_PAGE = "summary.json", "report.html"


@dataclass(frozen=True)
class Finished:
    """Files of a finished campaign, and its last student."""

    summary: Path
    report: Path
    student: ArtifactRef


def run_start(session: Session) -> CampaignState:
    """Make and keep what comes before the first round."""
    state = play_start(ComputedStages(session, None), session.params)
    made = {
        "prompt_set": state.prompt_set,
        "held_out_clips": state.held_out_clips,
        "student": state.reference,
        **({"white_box": state.white_box} if state.white_box else {}),
    }
    session.close_round("start", made)
    return state


def run_round(session: Session, state: CampaignState) -> CampaignState:
    """Make and keep one round; raises PausedError while an alarm waits for a person."""
    index = len(state.rounds)
    alarm_log.refuse_stopped(state.alarm_state, index)
    refuse_paused(session, state)
    after = play_round(ComputedStages(session, index), session.params, state)
    decision = alarm_log.record_decision(session.site.folder, index, after.alarm_state)
    session.close_round(f"{index:03d}", after.rounds[-1])
    session.note_alarms(decision)
    session.recorder.sync_soon()
    session.dispatch.end_round()
    return after


def refuse_paused(session: Session, state: CampaignState) -> None:
    """Raise PausedError after a round whose alarm waits for a person."""
    paths = CampaignPaths(session.site.folder.parent, session.site.store.root)
    alarm_log.refuse_paused(session.name, paths, len(state.rounds) - 1, state.alarm_state)


def run_campaign(
    session: Session, play: Callable[[Session, CampaignState], CampaignState] = run_round
) -> Finished:
    """Everything from prompts to report; `play` runs one round (Prefect runs it as a flow)."""
    params = session.params
    was_complete = session.is_complete
    state = run_start(session)
    while not state.is_over(params):
        state = play(session, state)
    refuse_paused(session, state)
    final, page = play_final(ComputedStages(session, None), params, state)
    ended = {"evaluation": final, "report": page}
    if params.evaluate.horizon is not None:
        ended["horizon"] = play_horizon(ComputedStages(session, None), params, state)
    session.close_round("final", ended)
    left = _leave(session, state, ended)
    if not was_complete:  # a killed one costs `dvc repro` a look at the store, not a computation
        dvc_tracking.commit_pipeline(session.site.folder, params)
    return left


def chosen_round(session: Session, index: int | None) -> int:
    """`index`, or the next round; raises RefusedError when there is no such round."""
    chosen = session.next_round if index is None else index
    paths = CampaignPaths(session.site.folder.parent, session.site.store.root)
    refuse_no_round(session.name, session.params, paths, chosen, is_next=index is None)
    return chosen


def refuse_no_round(
    name: str, params: Params, paths: CampaignPaths, index: int, *, is_next: bool = False
) -> None:
    """Raise RefusedError for a round that the campaign does not have."""
    last = params.num_rounds - 1
    if 0 <= index <= last:
        return
    goes_on = command("campaign", name, runs=paths.runs, store=paths.store)
    raise RefusedError(
        f"round {index}: campaign {name!r} has rounds 0 to {last}"
        + ("; all of them are finished" if is_next else "")
        + f"\n  {goes_on}    goes on with what is left"
    )


def run_one_round(session: Session, index: int | None = None) -> CampaignState:
    """Round `index` (default: the next one), with whatever it needs from before it."""
    chosen = chosen_round(session, index)
    state = run_start(session)
    for _ in range(chosen):  # finished ones cost a look at the store
        state = run_round(session, state)
    return run_round(session, state)


def play_final(
    stages: Stages, params: Params, state: CampaignState
) -> tuple[ArtifactRef, ArtifactRef]:
    """After the last round: evaluation on all held-out prompts, and the report on everything."""
    final = stages.make(
        requests.evaluate_final(
            params,
            state.prompt_set,
            state.student,
            state.reference,
            state.held_out_clips,
        )
    )
    page = stages.make(requests.report(params, final, [dict(made) for made in state.rounds]))
    return final, page


def play_horizon(stages: Stages, params: Params, state: CampaignState) -> ArtifactRef:
    """After the last round: the same student on clips longer than any it was trained on."""
    return stages.make(
        requests.evaluate_horizon(params, state.prompt_set, state.student, state.reference)
    )


def _leave(session: Session, state: CampaignState, ended: Mapping[str, ArtifactRef]) -> Finished:
    """Copy what people open out of the store."""
    folder, store = session.site.folder, session.site.store
    summary = json.loads(store.load(ended["evaluation"]).file(SUMMARY).read_bytes())
    made = [state.prompt_set, state.held_out_clips, state.reference]
    made += [ref for one in state.rounds for ref in one.values()]
    spent = _spent(store.load(ref) for ref in [*made, *ended.values()])
    left = Finished(folder / SUMMARY, folder / REPORT_PAGE, state.student)
    with disk_errors(folder):
        met = [asdict(target) for target in targets.verdicts(summary)]
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
