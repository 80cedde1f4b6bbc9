"""`--dry-run` of campaign, round and resume: every check of a start, and what it would compute."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afd.artifacts import ArtifactRef
from afd.config import Cluster, Params
from afd.params import ParamsError
from afd.runtime.request import StageRequest
from afd.store import Store
from flows import alarm_log
from flows.ablations import Cell, is_finished
from flows.baselines import play_round, play_start
from flows.campaign import play_final, play_horizon, refuse_no_round
from flows.campaign_lock import already_running, sure_holder_of
from flows.command_text import short_path
from flows.commands.consoles import console
from flows.dry_run import DryRunStages, NotComputedError
from flows.last_command import CommandKind
from flows.paths import (
    CampaignPaths,
    campaign_folder,
    refuse_other_params,
    refuse_unusable,
    saved_params,
    teacher_name,
)
from flows.prefect_runs.reach import configured_api
from flows.round_files import read_round
from flows.state import CampaignState
from flows.tasks import Pending


class CountedStages(DryRunStages):
    """Stages by name: those that the store has, and those that would be computed."""

    def __init__(self, store: Store, *, alarms_steer: bool) -> None:
        super().__init__(store, alarms_steer=alarms_steer)
        self.there: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        self._known, self._seen = store, set[str]()

    def make(self, request: StageRequest) -> ArtifactRef:
        ref = request.output
        if ref.fingerprint not in self._seen:
            self._seen.add(ref.fingerprint)
            (self.there if self._known.have(ref) else self.missing)[request.stage] += 1
        return ref

    def begin(self, request: StageRequest) -> Pending:
        self.make(request)
        return super().begin(request)


@dataclass(frozen=True)
class DryRun:
    """A start that is only looked at."""

    name: str
    params: Params
    cluster: Cluster
    paths: CampaignPaths

    @property
    def folder(self) -> Path:
        return campaign_folder(self.name, self.paths)

    def show(
        self,
        kind: CommandKind,
        index: int | None,
        *,
        with_prefect: bool,
        aside: bool = False,
        acknowledges: bool = False,
    ) -> None:
        """Print what would be done.

        Raises what a start would: StoreError, ParamsError, CampaignRunningError or RefusedError.
        """
        moved = self._check(aside=aside)
        store = Store(self.paths.store.resolve())
        rounds_done = 0 if moved else self._rounds_done(store)
        if kind == "round":
            is_next = index is None
            index = rounds_done if index is None else index
            refuse_no_round(self.name, self.params, self.paths, index, is_next=is_next)
        stages = CountedStages(store, alarms_steer=self.params.alarms.steers)
        beyond = self._play(stages, index if kind == "round" else None, acknowledges=acknowledges)
        out = console()
        folder = short_path(self.folder)
        aim = "campaign" if kind == "campaign" else f"round {index} of campaign"
        rows = {
            "dry run": f"{aim} {self.name}: checked; nothing was started or written",
            "params": _params_line(self.params),
            "folder": f"{folder} ({'new' if not self.folder.exists() else 'is there'})",
            "aside": f"what {folder} holds now would be renamed" if moved else "",
            "rounds": f"{rounds_done} of {self.params.num_rounds} are finished",
            "compute": _counts(stages.missing) or "nothing: all of it is in the store",
            "in store": _counts(stages.there),
            "later": beyond,
            "runs on": self._where(with_prefect=with_prefect),
        }
        for title, text in rows.items():
            if text:
                out.print(f"{title:<9}{text}", soft_wrap=True)

    def _check(self, *, aside: bool) -> bool:
        """Return whether an earlier campaign of this name would be renamed."""
        refuse_unusable(self.paths)
        if self.folder.exists() and (holder := sure_holder_of(self.folder)) is not None:
            raise already_running(self.folder, self.name, holder)
        try:
            refuse_other_params(self.folder, self.params)
        except ParamsError:
            if not aside or saved_params(self.folder) is None:
                raise
            return True
        return False

    def _rounds_done(self, store: Store) -> int:
        index = 0
        while True:
            made = read_round(self.folder / "rounds" / f"{index:03d}.json")
            if made is None or not all(store.have(ref) for ref in made.values()):
                return index
            index += 1

    def _play(self, stages: CountedStages, last: int | None, *, acknowledges: bool) -> str:
        """Count every stage up to round `last`, or to the report; return what cannot be known."""
        params = self.params
        state = play_start(stages, params)
        try:
            while not state.is_over(params) and (last is None or len(state.rounds) <= last):
                self._refuse_alarms(state, acknowledges=acknowledges)
                state = play_round(stages, params, state)
            if last is None:
                self._refuse_alarms(state, acknowledges=acknowledges)
                play_final(stages, params, state)
                if params.evaluate.horizon is not None:
                    play_horizon(stages, params, state)
        except NotComputedError:
            return f"alarms choose what follows round {len(state.rounds) - 1}"
        return ""

    def _refuse_alarms(self, state: CampaignState, *, acknowledges: bool) -> None:
        index = len(state.rounds) - 1
        if not acknowledges:
            alarm_log.refuse_paused(self.name, self.paths, index, state.alarm_state)

    def _where(self, *, with_prefect: bool) -> str:
        cluster = self.cluster
        text = f"{cluster.executor}, a worker a {cluster.allocation}"
        if cluster.executor != "slurm":
            text += f", {cluster.num_children} stages side by side, {cluster.num_threads} thread(s)"
        if not with_prefect:
            return f"{text}; without Prefect"
        return f"{text}; Prefect's server: {configured_api() or 'one of its own'}"


def _params_line(params: Params) -> str:
    return (
        f"{params.num_rounds} rounds, seed {params.seed}, teacher {teacher_name(params)}, student "
        f"{params.student.family}, objective {params.update.objective}"
    )


def _counts(stages: Counter[str]) -> str:
    total = sum(stages.values())
    listed = ", ".join(f"{number} {stage}" for stage, number in stages.items())
    return f"{total} stages: {listed}" if total else ""


def print_cells(cell: Cell, beside: Sequence[Cell], paths: CampaignPaths, jobs: int) -> None:
    """Print the campaigns that `afd ablation play` would run; raises ParamsError, StoreError."""
    refuse_unusable(paths)
    cells = [cell, *(other for other in beside if other != cell)]
    left = [one for one in cells if not is_finished(one, paths)]
    out = console()
    out.print("dry run  nothing was started or written")
    out.print(f"play     {', '.join(one.campaign for one in left) or 'nothing'}")
    out.print(f"finished {len(cells) - len(left)} of {len(cells)}")
    out.print(f"at once  {min(jobs, len(left))}")
