"""A campaign's runs in MLflow as a projection of its folder and its store.

`CampaignRuns.sync` writes what those have and MLflow has not. Whatever is written can be written
again: ids of runs come from disk, and the time of a metric follows from its artifact and its step,
so a replay lands on the same rows. A sync that was cut short is finished by the next one.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml

from afd.artifacts import Artifact, ArtifactRef, Manifest
from afd.evaluation.readings import flatten
from afd.stages.request import StageName, StageRequest
from afd.store import Store
from flows import decisions, versions
from flows.mlflow_runs import results, views
from flows.mlflow_runs.client import NOTE, Point, Tracking, Unavailable, brief, database_exists
from flows.mlflow_runs.facts import BegunStage, Facts, StageFact, read_facts
from flows.mlflow_runs.registry import Registry
from flows.mlflow_runs.run_ids import CAMPAIGN, CampaignStatus, RunIds, round_key, stage_key
from flows.mlflow_runs.views import GrowingCurve, Row

log = logging.getLogger(__name__)
RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
ENDED: Mapping[CampaignStatus, RunStatus] = {
    "finished": "FINISHED",
    "paused": "SCHEDULED",
    "failed": "FAILED",
    "killed": "KILLED",
}
SERIES: frozenset[StageName] = frozenset({"fit", "update", "evaluate"})  # one value a round
SHEET = "sheet.png"  # the evaluated student's clips
STEP_MS = 1  # between two steps of a curve: nobody knows when a step was made
Write = Callable[[], None]
Due = Iterator[tuple[str, Write]]


class CampaignRuns:
    """The MLflow runs of one campaign. Use it while holding the campaign; not thread-safe."""

    def __init__(self, tracking_uri: str, folder: Path, store: Store) -> None:
        self.folder, self.name, self.store = folder, folder.name, store
        self.ids = RunIds(folder)
        self.num_calls = 0  # grows for as long as MLflow answers
        self.num_refused = 0  # parts of runs
        self.is_abandoned = False  # set by whoever cannot wait: nothing more is begun
        self._tracking = Tracking(tracking_uri)
        self._registry = Registry(self._tracking, self.name, self.ids)
        self._is_open = self._is_touched = False
        self._refused: set[str] = set()  # not tried again by this process
        self._finished: set[str] = set()
        self._curves: dict[str, views.GrowingCurve] = {}
        self._digests: dict[str, str] = {}

    def sync(
        self,
        running: Set[str] = frozenset(),
        status: CampaignStatus | None = None,
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
                self._raise_if_away(error)
                raise
        num_written = 0
        for what, write in self._due(running, status, again):
            if self.is_abandoned:
                break
            num_written += self._try(what, write)
        return num_written

    # ------------------------------------------------------------------ what MLflow lacks

    def _due(self, running: Set[str], status: CampaignStatus | None, again: bool) -> Due:
        """Yield everything that is to be written but what was refused, the oldest first.

        Each is looked up when those before it are written.
        """
        facts = read_facts(self.folder)
        for what, write in self._all_due(facts, running, status, again):
            if what not in self._refused:
                yield what, write

    def _all_due(
        self, facts: Facts, running: Set[str], status: CampaignStatus | None, again: bool
    ) -> Due:
        campaign = self.ids.read(CAMPAIGN)
        if not campaign.get("run_id") and (facts.stages or status is None):
            yield "campaign", self._make_campaign_run
        elif running and campaign.get("state") != "running":
            yield "campaign resumed", lambda: self._resume(CAMPAIGN)
        for fact in facts.stages:
            yield from self._due_of(fact, running, again)
        for index in facts.closed_rounds:
            if not self.ids.is_finished(round_key(index)) and self._is_whole(index, facts):
                yield f"round {index}", partial(self._finish_round, index, facts)
        if (final := facts.final) is not None and self._lacks_result(final):
            yield "held-out result", partial(self._show_result, final, facts)
        for key in self._left_running(running, status):
            yield f"end of {key}", partial(self._end, key, _state_left(key, status), _now())
        if status is not None and self._is_ended_by(status):
            yield f"campaign {status}", partial(self._end_campaign, status)

    def _due_of(self, fact: StageFact, running: Set[str], again: bool) -> Due:
        key, begun, label = stage_key(fact.ref), fact.begun, _label(fact.ref)
        if key in self._finished and not again:
            return
        entry = self.ids.read(key)
        if entry.get("state") == "finished" and not (again and entry.get("refused")):
            self._finished.add(key)
        elif self.store.have(fact.ref):
            yield label, partial(self._record, fact)
        elif begun is not None and key in running:
            curve = self._curves.setdefault(key, GrowingCurve(self.store.work_path(fact.ref)))
            if entry.get("state") != "running":
                yield f"{label} begun", partial(self._begin, begun)
            if curve.has_grown():
                yield f"{label} curve", partial(self._extend, key, curve)
        elif begun is not None and begun.outcome and entry.get("failed_ms") != begun.began_ms:
            yield f"{label} failed", partial(self._fail, begun)

    def _is_known(self, ref: ArtifactRef) -> bool:
        """Return whether nothing more will be written of a stage."""
        return self.ids.is_finished(stage_key(ref)) or _label(ref) in self._refused

    def _lacks_result(self, final: ArtifactRef) -> bool:
        shown = self.ids.read(CAMPAIGN).get("final") == final.fingerprint
        return self._is_known(final) and not shown

    def _is_whole(self, index: int, facts: Facts) -> bool:
        return all(self._is_known(one.ref) for one in facts.stages if one.round_index == index)

    def _left_running(self, running: Set[str], status: CampaignStatus | None) -> list[str]:
        """Return the runs that nobody computes; a round's is left alone while its campaign runs."""
        left = [key for key, one in self.ids.entries().items() if one.get("state") == "running"]
        left = [key for key in left if key != CAMPAIGN and key not in running]
        return [key for key in left if status is not None or not _is_round(key)]

    def _is_ended_by(self, status: CampaignStatus) -> bool:
        """Return whether the campaign's run is to be ended: a refused command changes nothing."""
        state = self.ids.read(CAMPAIGN).get("state")
        if state is None or state == ENDED[status].lower():
            return False
        return state == "running" or self._is_touched or status == "finished"

    # ------------------------------------------------------------------ MLflow's answers

    def _try(self, what: str, write: Write) -> bool:
        """Write one thing; what MLflow refuses is reported and holds back nothing else."""
        try:
            write()
        except Exception as error:
            self._raise_if_away(error)
            if isinstance(error, OSError):
                raise  # of the campaign's own folder
            log.warning("MLflow has not taken %s of %s: %s", what, self.name, brief(error))
            self._refused.add(what)
            self.num_refused += 1
            return False
        self.num_calls += 1
        return True

    def _part(self, key: str, what: str, write: Write) -> None:
        """Write a part of a run; where MLflow refuses it, `sync(again=True)` tries once more."""
        try:
            write()
        except Exception as error:  # noqa: BLE001  a record never fails a campaign
            self._raise_if_away(error)
            log.warning(
                "MLflow refuses %s of %s/%s, the rest is recorded: %s",
                what, self.name, key, brief(error),
            )  # fmt: skip
            self.num_refused += 1
            self.ids.write(key, refused=[*self.ids.read(key).get("refused", ()), what])
        self.num_calls += 1

    def _raise_if_away(self, error: Exception) -> None:
        if self._tracking.is_away(error):
            raise Unavailable(brief(error)) from error

    def _log(
        self,
        key: str,
        metrics: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        model_id: str | None = None,
    ) -> None:
        """Write all of it in one call; where MLflow refuses that, piece by piece."""
        run_id = str(self.ids.read(key)["run_id"])
        write = partial(self._tracking.log, run_id)
        try:
            write(metrics=metrics, params=params, tags=tags, model_id=model_id)
        except Exception as error:  # noqa: BLE001  each part reports its own
            self._raise_if_away(error)
            self._part(key, "metrics", partial(write, metrics=metrics, model_id=model_id))
            self._part(key, "tags", partial(write, tags=tags))
            for name, value in params.items():
                self._part(key, f"param {name[:80]}", partial(write, params={name: value}))

    # ------------------------------------------------------------------ runs

    def _open(self) -> None:
        """Find the campaign's run or make it, and what a kill left between MLflow and the disk."""
        known = self.ids.read(CAMPAIGN).get("run_id")
        if known and not self._tracking.has(known):
            self._forget()  # the server's database was deleted
        params = _params(self.folder)
        self.ids.campaign_id(params)
        if self.ids.any_unfinished():
            self._adopt()
        run_id = self._make_campaign_run()
        self.ids.write(CAMPAIGN, experiment_id=self._tracking.experiment)  # for links into the UI
        there = self._tracking.client.get_run(run_id).data
        missing = {name: value for name, value in flatten(params) if name not in there.params}
        note = {} if NOTE in there.tags else {NOTE: results.opening(self.name, params)}
        self._log(CAMPAIGN, (), missing, note)
        self._is_open = True

    def _forget(self) -> None:
        self.ids.set_aside()
        self._finished.clear()

    def _make_campaign_run(self) -> str:
        tags = {"afd.level": "campaign", "afd.state": "running"}
        return self._run(CAMPAIGN, self.name, _now(), tags, parent=None)

    def _round_run(self, index: int, at_ms: int) -> str:
        tags = {"afd.level": "round", "afd.round": str(index)}
        parent = self._make_campaign_run()
        return self._run(round_key(index), f"round {index}", at_ms, tags, parent)

    def _stage_run(self, stage: str, ref: ArtifactRef, index: int | None, at_ms: int) -> str:
        self._is_touched = True
        tags = {
            "afd.level": "stage",
            "afd.stage": stage,
            "afd.artifact": f"{ref.kind}/{ref.fingerprint[:16]}",
        }
        if index is None:
            return self._run(stage_key(ref), stage, at_ms, tags, self._make_campaign_run())
        tags["afd.round"] = str(index)
        parent = self._round_run(index, at_ms)
        return self._run(stage_key(ref), f"{stage} {index}", at_ms, tags, parent)

    def _run(
        self, key: str, name: str, at_ms: int, tags: Mapping[str, str], parent: str | None
    ) -> str:
        """Return the run of `key`: the one that is known, or a new one, RUNNING."""
        if run_id := self.ids.read(key).get("run_id"):
            return str(run_id)
        tags = dict(tags) | {
            "afd.campaign": self.name,
            "afd.campaign_id": self.ids.campaign_id(None),
            "afd.key": key,
            "mlflow.source.name": "afd",
        }
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        if (made := self._made_unheard(key)) is not None:
            self.ids.write(key, run_id=made, state="running")
            return made
        client = self._tracking.client
        run = client.create_run(
            self._tracking.experiment, start_time=at_ms, tags=tags, run_name=name
        )
        self.ids.write(key, run_id=run.info.run_id, state="running", start_ms=at_ms)
        self.num_calls += 1
        return str(run.info.run_id)

    def _made_unheard(self, key: str) -> str | None:
        """Return a run that a server made when its answer was lost: a second would never end."""
        if not self._tracking.is_remote:
            return None
        mine = f"tags.`afd.campaign_id` = '{self.ids.campaign_id(None)}'"
        found = self._tracking.client.search_runs(
            [self._tracking.experiment], f"{mine} and tags.`afd.key` = '{key}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _adopt(self) -> None:
        """Take up runs that were made in the instant before their id was on disk."""
        client = self._tracking.client
        mine = f"tags.`afd.campaign_id` = '{self.ids.campaign_id(None)}'"
        for run in client.search_runs(
            [self._tracking.experiment], f"attributes.status = 'RUNNING' and {mine}"
        ):
            key = run.data.tags["afd.key"]
            known = self.ids.read(key).get("run_id")
            if known is None:
                self.ids.write(key, run_id=run.info.run_id, state="running")
            elif known != run.info.run_id:
                client.set_terminated(run.info.run_id, status="KILLED", end_time=_now())

    def _resume(self, key: str) -> None:
        self._tracking.client.update_run(self.ids.read(key)["run_id"], status="RUNNING")
        if key == CAMPAIGN:
            self._log(key, (), {}, {"afd.state": "running"})
        self.ids.write(key, state="running")

    def _end(self, key: str, status: RunStatus, at_ms: int) -> None:
        run_id = self.ids.read(key)["run_id"]
        self._tracking.client.set_terminated(run_id, status=status, end_time=at_ms)
        self.ids.write(key, state=status.lower(), ended_ms=at_ms)

    def _end_campaign(self, status: CampaignStatus) -> None:
        tags = {"afd.state": status}
        stopped = any(one["ends"] == "stops" for one in decisions.records(self.folder)[-1:])
        if status == "finished" and not stopped:
            tags["afd.course"] = "finished"
        self._log(CAMPAIGN, (), {}, tags)
        self._end(CAMPAIGN, ENDED[status], _now())

    # ------------------------------------------------------------------ stages without artifact

    def _begin(self, begun: BegunStage) -> None:
        self._stage_run(begun.stage, begun.ref, begun.round_index, begun.began_ms)
        keys = [stage_key(begun.ref)]
        if begun.round_index is not None:
            keys.append(round_key(begun.round_index))
        for key in keys:
            if self.ids.read(key)["state"] != "running":
                self._resume(key)

    def _extend(self, key: str, curve: GrowingCurve) -> None:
        """Write the steps that a running stage has made since the last sync."""
        rows = curve.read()
        self._log(key, self._points(key, rows), {}, {})
        self._note_steps(key, rows)

    def _points(self, key: str, rows: Sequence[Row]) -> list[Point]:
        """Return the rows that MLflow has not; the time of one is its run's start and its step."""
        entry = self.ids.read(key)
        if "start_ms" not in entry:  # of an earlier version, or found in MLflow
            run = self._tracking.client.get_run(entry["run_id"])
            self.ids.write(key, start_ms=run.info.start_time)
            entry = self.ids.read(key)
        start, known = int(entry["start_ms"]), int(entry.get("step", -1))
        return [Point(n, v, step, start + step * STEP_MS) for n, v, step in rows if step > known]

    def _note_steps(self, key: str, rows: Sequence[Row]) -> None:
        if rows:
            self.ids.write(key, step=max(step for _, _, step in rows))

    def _fail(self, begun: BegunStage) -> None:
        key = stage_key(begun.ref)
        self._stage_run(begun.stage, begun.ref, begun.round_index, begun.began_ms)
        self._log(key, (), {}, {"afd.outcome": begun.outcome, NOTE: begun.message})
        self._end(key, "FAILED", _now())
        self.ids.write(key, failed_ms=begun.began_ms)

    # ------------------------------------------------------------------ stages with an artifact

    def _record(self, fact: StageFact) -> None:
        ref, index, key = fact.ref, fact.round_index, stage_key(fact.ref)
        artifact = self.store.load(ref)
        manifest = artifact.manifest
        ended = ended_ms(manifest)
        began = fact.begun.began_ms if fact.begun else ended - round(manifest.wall_s * 1000)
        run_id = self._stage_run(manifest.stage, ref, index, began)
        if self.ids.read(key).get("refused"):
            self.ids.write(key, refused=[])
        rows = views.curves(artifact)
        summary, renamed = views.summary(manifest, frozenset(name for name, _, _ in rows))
        outside = views.outside(artifact)
        points = [Point(n, v, 0, ended) for n, v in (summary | outside.metrics).items()]
        digests = self._digests_of([ref, *manifest.made_from.values()])
        self._log(
            key,
            [*points, *self._points(key, rows)],
            dict(flatten(manifest.params)),
            views.tags(manifest, digests) | outside.tags,
            None if index is None else self._model_of(manifest),
        )
        self._note_steps(key, rows)
        datasets = views.inputs(manifest.made_from, digests)
        if datasets:
            write = partial(self._tracking.client.log_inputs, run_id, datasets=datasets)
            self._part(key, "inputs", write)
        for name in views.files(artifact):
            write = partial(self._tracking.show_files, run_id, artifact.path, [name])
            self._part(key, f"file {name}", write)
        self._sum_up(fact, artifact, summary | outside.metrics | renamed, outside.tags)
        self._show_on_campaign(fact, artifact)
        if _request(manifest).makes_student:
            add = partial(self._registry.add, run_id, index, ref, manifest, digests)
            self._part(key, "model", add)
        if manifest.stage == "evaluate" and index is not None:
            # Scores of one card only: those after a round, not the final one.
            crown = partial(self._registry.crown, manifest.made_from["student"], manifest)
            self._part(key, "champion", crown)
        self._end(key, "FINISHED", ended)
        self._curves.pop(key, None)

    def _model_of(self, manifest: Manifest) -> str | None:
        """Return the logged model that an evaluation is of."""
        student = manifest.made_from.get("student")
        if manifest.stage != "evaluate" or student is None:
            return None
        return self.ids.read(stage_key(student)).get("model_id")

    def _sum_up(
        self,
        fact: StageFact,
        artifact: Artifact,
        summary: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Show a stage's numbers on its round's page and, against round, on the campaign's.

        `tags` say what the numbers are worth, so they are wherever those are.
        """
        manifest, index = artifact.manifest, fact.round_index
        ended = ended_ms(manifest)
        if index is not None:
            self._round_run(index, ended)
            self._log(round_key(index), [Point(n, v, 0, ended) for n, v in summary.items()], {}, {})
        made_by = {
            "mlflow.source.git.commit": manifest.made_by.revision,
            "afd.dirty": str(manifest.made_by.is_dirty).lower(),
        }
        if index is not None and manifest.stage in SERIES:
            points = [Point(n, v, index, ended) for n, v in summary.items()]
            self._log(CAMPAIGN, points, {}, made_by | tags)
        elif tags or manifest.stage == "prompts":
            self._log(CAMPAIGN, (), {}, made_by | tags)

    def _show_on_campaign(self, fact: StageFact, artifact: Artifact) -> None:
        """Show what a person looks for first: pictures against round, and how it ended."""
        manifest, index = artifact.manifest, fact.round_index
        if manifest.stage not in ("evaluate", "report") or "horizon" in manifest.params:
            return
        run_id, show = self._make_campaign_run(), self._tracking
        if index is None:
            for name in views.files(artifact):
                write = partial(show.show_files, run_id, artifact.path, [name])
                self._part(stage_key(fact.ref), f"file {name} of the campaign", write)
        elif SHEET in manifest.files:
            picture, at = artifact.file(SHEET), ended_ms(manifest)
            for shown_on in (run_id, self._round_run(index, at)):
                write = partial(show.show_picture, shown_on, "students", index, picture, at)
                self._part(stage_key(fact.ref), "picture of the round", write)

    def _digests_of(self, refs: Iterable[ArtifactRef]) -> dict[str, str]:
        """Return fingerprint -> DVC's md5, of the artifacts that are here."""
        for ref in refs:
            if ref.fingerprint not in self._digests and self.store.have(ref):
                self._digests[ref.fingerprint] = versions.digest(self.store.load(ref))
        return self._digests

    # ------------------------------------------------------------------ rounds and the end

    def _finish_round(self, index: int, facts: Facts) -> None:
        key = round_key(index)
        own = [one.ref for one in facts.stages if one.round_index == index]
        ended = max((self.ids.read(stage_key(ref)).get("ended_ms", 0) for ref in own), default=0)
        self._round_run(index, ended or _now())
        for record in decisions.records(self.folder):
            if record["round"] == index:
                metrics, tags = views.decision(record)
                for on, step in ((key, 0), (CAMPAIGN, index)):
                    self._log(on, [Point(n, v, step, ended) for n, v in metrics.items()], {}, tags)
        self._end(key, "FINISHED", ended or _now())

    def _show_result(self, final: ArtifactRef, facts: Facts) -> None:
        """Show the held-out result on the campaign's run and on the version of its student."""
        evaluation, num_rounds = self.store.load(final), len(facts.closed_rounds)
        at = ended_ms(evaluation.manifest)
        found = results.results(evaluation)
        student = self.ids.read(stage_key(evaluation.manifest.made_from["student"]))
        words = results.description(self.name, num_rounds, evaluation, student.get("version"))
        points = [Point(n, v, 0, at) for n, v in found.metrics.items()]
        self._log(CAMPAIGN, points, {}, found.tags | {NOTE: words})
        if student.get("model_id"):
            self._log(stage_key(final), points, {}, {}, student["model_id"])
        self.ids.write(CAMPAIGN, final=final.fingerprint)


def ended_ms(manifest: Manifest) -> int:
    """Return when an artifact was finished."""
    return round(datetime.fromisoformat(manifest.created_at).timestamp() * 1000)


def _request(manifest: Manifest) -> StageRequest:
    return StageRequest.model_validate(
        {"stage": manifest.stage, "params": manifest.params, "inputs": manifest.made_from}
    )


def _label(ref: ArtifactRef) -> str:
    return f"{ref.kind} {ref.short}"


def _is_round(key: str) -> bool:
    return key.startswith("round_")


def _state_left(key: str, status: CampaignStatus | None) -> RunStatus:
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


def _now() -> int:
    return time.time_ns() // 1_000_000
