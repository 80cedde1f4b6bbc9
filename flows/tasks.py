"""Prefect tasks, one per stage: take the artifact from the store, or dispatch and record it.

`make` is the whole of a task and plain Python; Prefect adds the graph, cancellation and the UI, and
a campaign runs without it.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, get_args

from afd.artifacts import ArtifactRef
from afd.failpoints import failpoint
from afd.runtime.mailbox import request_id
from afd.runtime.request import StageName, StageRequest
from flows.dispatch import StageFailedError, compute
from flows.jobs.records import JobRecords
from flows.jobs.site import GivenUpError, log_tail
from flows.prefect_runs.final_states import ends_in_words, raise_ended
from flows.prefect_runs.pages import log_stage, progress_artifact
from flows.prefect_runs.reach import is_away
from flows.progress import FinishedStage, RunningStage, take_notices
from flows.session import Session

if TYPE_CHECKING:
    from prefect import Task


class Pending(Protocol):
    """A stage that computes beside others."""

    def result(self) -> ArtifactRef: ...


class Stages(Protocol):
    """Interface of a round to its stages: computed ones, or names only in a dry run."""

    def make(self, request: StageRequest) -> ArtifactRef: ...

    def begin(self, request: StageRequest) -> Pending: ...

    def summary(self, ref: ArtifactRef) -> Mapping[str, object]: ...


def make(session: Session, request: StageRequest, round_index: int | None) -> ArtifactRef:
    """Return the artifact of `request`, made and recorded if it is not there.

    Raises StageFailedError with what happened, what is kept and how to go on.
    """
    store, ref = session.site.store, request.output
    was_there = store.have(ref)
    wall_s = 0.0
    if was_there:  # made while no head lived: its jobs are over
        JobRecords(session.site.folder / "ledger").end(request_id(request), "done")
    else:
        with (
            session.recorder.computing(round_index, request),
            session.progress.computing(request, round_index),
            _ending(session),
        ):
            outcome = compute(session.dispatch, session.site, request)
        entry = RunningStage(request, round_index, 0.0)
        take_notices(session.progress, session.site.folder, store, entry, is_over=True)
        wall_s = outcome.wall_s
        if outcome.status != "done":
            tail = log_tail(outcome.log)
            session.recorder.fail(request, outcome.status, tail)
            session.dispatch.close()  # what computes beside it would be waited for in vain
            raise StageFailedError(request, outcome)
        failpoint("flow.stage_done")
    artifact = store.load(ref)
    session.record(round_index, request)
    made = artifact.manifest
    session.progress.finish(
        FinishedStage(request, round_index, wall_s, made.summary, was_there, spent_s=made.wall_s)
    )
    return ref


class ComputedStages:
    """Stages computed for real, in the calling thread or beside it."""

    def __init__(self, session: Session, round_index: int | None) -> None:
        self._session, self._round_index = session, round_index
        self._begun: list[Pending] = []

    def make(self, request: StageRequest) -> ArtifactRef:
        try:
            if self._session.with_prefect:
                return self._as_task(request)
            return make(self._session, request, self._round_index)
        except GivenUpError:
            for begun in self._begun:
                begun.result()  # raises the error of the stage beside it
            raise

    def begin(self, request: StageRequest) -> Pending:
        """Start it now if there is room beside what runs, else when its result is asked for."""
        if self._session.dispatch.num_side_by_side == 1:
            return Ready(self.make(request))
        pending: Pending
        if self._session.with_prefect:
            with _untagged():
                pending = prefect_task(request.stage).submit(
                    self._opaque, request, self._round_index
                )
        else:
            pending = _threads().submit(make, self._session, request, self._round_index)
        self._begun.append(PendingStage(self._session, pending))
        return self._begun[-1]

    def summary(self, ref: ArtifactRef) -> Mapping[str, object]:
        """Return the summary in an artifact's manifest."""
        return self._session.site.store.load(ref).manifest.summary

    def _as_task(self, request: StageRequest) -> ArtifactRef:
        """Through Prefect; if its server goes away meanwhile, without: what is made is found."""
        try:
            with _untagged():
                task = prefect_task(request.stage)
                return raise_ended(task(self._opaque, request, self._round_index))
        except Exception as error:
            if not is_away(error):
                raise
            self._session.go_on_without_prefect(error)
            return make(self._session, request, self._round_index)

    @property
    def _opaque(self) -> "Opaque":
        return Opaque(self._session)


class PendingStage:
    """A stage that computes in a thread; giving up the wait gives up the campaign's jobs."""

    def __init__(self, session: Session, pending: Pending) -> None:
        self._session, self._pending = session, pending

    def result(self) -> ArtifactRef:
        with _ending(self._session):
            return self._pending.result()


class Ready:
    """A result that is there already."""

    def __init__(self, ref: ArtifactRef) -> None:
        self._ref = ref

    def result(self) -> ArtifactRef:
        return self._ref


class Opaque:
    """Carries a session through Prefect, which would otherwise walk into its fields."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session


@contextmanager
def _ending(session: Session) -> Iterator[None]:
    """End every other wait when one is interrupted: Prefect would let them run on."""
    try:
        yield
    except BaseException:
        session.dispatch.close()
        raise


@contextmanager
def _untagged() -> Iterator[None]:
    """Keep the flow's tags off its tasks: for each tag a task asks the server for a concurrency
    slot before it runs, and gives it back afterwards, 2 s a stage where nothing is limited."""
    from prefect.context import TagsContext

    with TagsContext(current_tags=set()):
        yield


@cache
def prefect_task(stage: StageName) -> "Task[Any, Any]":
    """Return the task of a stage, without a Prefect cache: the store decides what is done."""
    from prefect import Task
    from prefect.cache_policies import NO_CACHE

    def run(held: Opaque, request: StageRequest, round_index: int | None) -> ArtifactRef:
        session = held.session
        was_there = session.site.store.have(request.output)
        with progress_artifact(session.name, session.site.store, request):
            made = make(session, request, round_index)
        log_stage(session.site.store.load(made), was_there=was_there)
        return made

    return Task(
        ends_in_words(run),
        name=stage,
        task_run_name=f"{stage}-{{request.output.short}}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@cache
def _threads() -> ThreadPoolExecutor:
    """They only wait: for a worker's child or a job."""
    return ThreadPoolExecutor(max_workers=len(get_args(StageName)), thread_name_prefix="stage")
