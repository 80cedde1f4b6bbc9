"""A campaign's runs in MLflow as a projection of its folder and its store.

`CampaignRuns.sync` writes what those have and MLflow has not. Whatever is written can be written
again: ids of runs come from disk, and the time of a metric follows from its artifact and its step,
so a replay lands on the same rows. A sync that was cut short is finished by the next one.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from afd.artifacts import ArtifactRef
from afd.evaluation.readings import flatten
from afd.store import Store
from flows import alarm_log
from flows.mlflow_runs import results, views
from flows.mlflow_runs.client import NOTE, Point, Tracking, brief, database_exists
from flows.mlflow_runs.facts import Facts, StageFact, read_facts
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import CAMPAIGN, CampaignEnding, RunIds, round_key, stage_key
from flows.mlflow_runs.run_tree import RunStatus, RunTree, now_ms
from flows.mlflow_runs.stage_pages import StagePages, ended_ms
from flows.mlflow_runs.views import GrowingCurve

log = logging.getLogger(__name__)
ENDED: Mapping[CampaignEnding, RunStatus] = {
    "finished": "FINISHED",
    "paused": "SCHEDULED",
    "failed": "FAILED",
    "killed": "KILLED",
}
Write = Callable[[], object]
Due = Iterator[tuple[str, Write]]


class CampaignRuns:
    """The MLflow runs of one campaign. Use it while holding the campaign; not thread-safe."""

    def __init__(self, tracking_uri: str, folder: Path, store: Store) -> None:
        self.folder, self.name, self.store = folder, folder.name, store
        self.ids = RunIds(folder)
        self.is_abandoned = False  # set by whoever cannot wait: nothing more is begun
        self._tracking = Tracking(tracking_uri)
        self.tree = RunTree(self._tracking, self.name, self.ids)
        registry = Registry(self._tracking, self.name, self.ids)
        self._pages = StagePages(self.tree, registry, store)
        self._is_open = False
        self._refused: set[str] = set()  # not tried again by this process
        self._finished: set[str] = set()
        self._curves: dict[str, GrowingCurve] = {}

    def sync(
        self,
        running: Set[str] = frozenset(),
        status: CampaignEnding | None = None,
        *,
        again: bool = False,
    ) -> int:
        """Write what MLflow lacks; return how many things that were.

        `running`: keys of the stages that this process waits for; nobody computes any other.
        `status`: how the campaign ended; None while it runs. `again`: also what MLflow refused
        before. Raises Unavailable when MLflow is away, OSError when ids cannot be written.
        """
        if self.ids.read("identity") and not database_exists(self._tracking.uri):
            self._forget()  # a new one is filled from the store
        is_checked = again and self._tracking.is_remote  # its database may have been deleted
        if not is_checked and next(self._due(running, status, again), None) is None:
            return 0
        if not self._is_open:
            try:
                self._open()
            except Exception as error:
                self.tree.raise_if_away(error)
                raise
        num_written = 0
        for what, write in self._due(running, status, again):
            if self.is_abandoned:
                break
            num_written += self._try(what, write)
        return num_written

    # ------------------------------------------------------------------ what MLflow lacks

    def _due(self, running: Set[str], status: CampaignEnding | None, again: bool) -> Due:
        """Yield everything that is to be written but what was refused, the oldest first.

        Each is looked up when those before it are written.
        """
        facts = read_facts(self.folder)
        for what, write in self._all_due(facts, running, status, again):
            if what not in self._refused:
                yield what, write

    def _all_due(
        self, facts: Facts, running: Set[str], status: CampaignEnding | None, again: bool
    ) -> Due:
        campaign = self.ids.read(CAMPAIGN)
        if not campaign.get("run_id") and (facts.stages or status is None):
            yield "campaign", self.tree.campaign_run
        elif running and campaign.get("state") != "running":
            yield "campaign resumed", lambda: self.tree.resume(CAMPAIGN)
        for fact in facts.stages:
            yield from self._due_of(fact, running, again)
        for index in facts.closed_rounds:
            if not self.ids.is_finished(round_key(index)) and self._is_whole(index, facts):
                yield f"round {index}", partial(self._finish_round, index, facts)
        if (final := facts.final) is not None and self._lacks_result(final):
            yield "held-out result", partial(self._show_result, final, facts)
        for key in self._left_running(running, status):
            yield f"end of {key}", partial(self.tree.end, key, _state_left(key, status), now_ms())
        if status is not None and self._is_ended_by(status):
            yield f"campaign {status}", partial(self._end_campaign, status)

    def _due_of(self, fact: StageFact, running: Set[str], again: bool) -> Due:
        key, begun, label = stage_key(fact.ref), fact.begun, _label(fact.ref)
        if key in self._finished and not again:
            return
        entry = self.ids.read(key)
        if entry.get("state") == "finished" and not (again and entry.get("refused")):
            self._finished.add(key)
            self._curves.pop(key, None)
        elif self.store.have(fact.ref):
            yield label, partial(self._pages.record, fact)
        elif begun is not None and key in running:
            curve = self._curves.setdefault(key, GrowingCurve(self.store.work_path(fact.ref)))
            if entry.get("state") != "running":
                yield f"{label} begun", partial(self._pages.begin, begun)
            if curve.has_grown():
                yield f"{label} curve", partial(self._pages.extend, key, curve)
        elif begun is not None and begun.outcome and entry.get("failed_ms") != begun.began_ms:
            yield f"{label} failed", partial(self._pages.fail, begun)

    def _is_known(self, ref: ArtifactRef) -> bool:
        """Return whether nothing more will be written of a stage."""
        return self.ids.is_finished(stage_key(ref)) or _label(ref) in self._refused

    def _lacks_result(self, final: ArtifactRef) -> bool:
        is_recorded = self.ids.read(CAMPAIGN).get("final") == final.fingerprint
        return self._is_known(final) and not is_recorded

    def _is_whole(self, index: int, facts: Facts) -> bool:
        return all(self._is_known(one.ref) for one in facts.stages if one.round_index == index)

    def _left_running(self, running: Set[str], status: CampaignEnding | None) -> list[str]:
        """Return the runs that nobody computes; a round's is left alone while its campaign runs."""
        left = [key for key, one in self.ids.entries().items() if one.get("state") == "running"]
        left = [key for key in left if key != CAMPAIGN and key not in running]
        return [key for key in left if status is not None or not _is_round(key)]

    def _is_ended_by(self, status: CampaignEnding) -> bool:
        """Return whether the campaign's run is to be ended: a refused command changes nothing."""
        state = self.ids.read(CAMPAIGN).get("state")
        if state is None or state == ENDED[status].lower():
            return False
        return state == "running" or self.tree.is_touched or status == "finished"

    def _try(self, what: str, write: Write) -> bool:
        """Write one thing; what MLflow refuses is reported and holds back nothing else."""
        try:
            write()
        except Exception as error:
            self.tree.raise_if_away(error)
            if isinstance(error, OSError):
                raise  # of the campaign's own folder
            log.warning("MLflow has not taken %s of %s: %s", what, self.name, brief(error))
            self._refused.add(what)
            self.tree.num_refused += 1
            return False
        self.tree.num_calls += 1
        return True

    # ------------------------------------------------------------------ the campaign's own run

    def _forget(self) -> None:
        self.ids.set_aside()
        self._finished.clear()
        self._is_open = False

    def _open(self) -> None:
        """Find the campaign's run or make it, and what a kill left between MLflow and the disk."""
        known = self.ids.read(CAMPAIGN).get("run_id")
        if known and not self._tracking.has(known):
            self._forget()  # the server's database was deleted
        params = _params(self.folder)
        self.ids.campaign_id(params)
        if self.ids.any_unfinished():
            self.tree.adopt()
        run_id = self.tree.campaign_run()
        self.ids.write(CAMPAIGN, experiment_id=self._tracking.experiment)  # for links into the UI
        there = self._tracking.client.get_run(run_id).data
        missing = {name: value for name, value in flatten(params) if name not in there.params}
        note = {} if NOTE in there.tags else {NOTE: results.opening(self.name, params)}
        self.tree.log(CAMPAIGN, (), missing, note)
        self._is_open = True

    def _end_campaign(self, status: CampaignEnding) -> None:
        tags = {"afd.state": status}
        stopped = any(one["ends"] == "stops" for one in alarm_log.records(self.folder)[-1:])
        if status == "finished" and not stopped:
            tags["afd.course"] = "finished"
        self.tree.log(CAMPAIGN, (), {}, tags)
        self.tree.end(CAMPAIGN, ENDED[status], now_ms())

    def _finish_round(self, index: int, facts: Facts) -> None:
        key = round_key(index)
        own = [one.ref for one in facts.stages if one.round_index == index]
        ended = max((self.ids.read(stage_key(ref)).get("ended_ms", 0) for ref in own), default=0)
        self.tree.round_run(index, ended or now_ms())
        for record in alarm_log.records(self.folder):
            if record["round"] == index:
                metrics, tags = views.decision(record)
                for on, step in ((key, 0), (CAMPAIGN, index)):
                    self.tree.log(
                        on, [Point(n, v, step, ended) for n, v in metrics.items()], {}, tags
                    )
        self.tree.end(key, "FINISHED", ended or now_ms())

    def _show_result(self, final: ArtifactRef, facts: Facts) -> None:
        """Show the held-out result on the campaign's run and on the version of its student."""
        evaluation, num_rounds = self.store.load(final), len(facts.closed_rounds)
        at = ended_ms(evaluation.manifest)
        found = results.results(evaluation)
        student = self.ids.read(stage_key(evaluation.manifest.made_from["student"]))
        words = results.description(self.name, num_rounds, evaluation, student.get("version"))
        points = [Point(n, v, 0, at) for n, v in found.metrics.items()]
        self.tree.log(CAMPAIGN, points, {}, found.tags | {NOTE: words})
        if student.get("model_id"):
            self.tree.log(stage_key(final), points, {}, {}, student["model_id"])
        self.ids.write(CAMPAIGN, final=final.fingerprint)


def _label(ref: ArtifactRef) -> str:
    return f"{ref.kind} {ref.short}"


def _is_round(key: str) -> bool:
    return key.startswith("round_")


def _state_left(key: str, status: CampaignEnding | None) -> RunStatus:
    """Return how a run ends that nobody computes any more."""
    if status is None or (not _is_round(key) and status in ("finished", "paused")):
        return "KILLED"
    return ENDED[status]


def _params(folder: Path) -> dict[str, Any]:
    """Return the campaign's params as its folder has them."""
    try:
        return yaml.safe_load((folder / "params.yaml").read_text()) or {}
    except FileNotFoundError:
        return {}
