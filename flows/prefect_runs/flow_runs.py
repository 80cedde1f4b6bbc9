"""Prefect flow runs of a campaign, on disk until Prefect has their final states.

    runs/<name>/flow_runs/<id>.json        a flow run of this campaign: its process, how it ended
    runs/<name>/flow_runs/called/<tag>     a process that calls a flow: runs it makes have that tag

Prefect gets a final state from the process that ends. A killed process, or one whose server was
away, sends none, and the run would stay Running for ever. So the next process that runs the
campaign, or `afd up`, `afd cancel`, `afd resume`, sets the state. Each run is
reconciled with the server that shows it, and its file is removed after the answer.
"""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import ValidationError

from afd.config import Frozen
from afd.processes import ProcessId
from afd.store import write_atomic
from flows.paths import CampaignPaths
from flows.prefect_runs.reach import client_of, is_of_its_host, trouble
from flows.prefect_runs.services import ServiceError, others_api, own_server

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)
OWN = "own"  # instead of an address: the server of this folder, whose port may change
GIVEN_UP = "GivenUpError"  # how a stage ends that computed beside the one that was interrupted
Ended = Literal["completed", "failed", "cancelled", "crashed"]
MESSAGES: dict[Ended, str] = {
    "completed": "its process finished while the server was away",
    "failed": "its process failed while the server was away",
    "cancelled": "cancelled; everything finished is kept, `afd resume` goes on",
    "crashed": "its process is gone; everything finished is kept, `afd resume` goes on",
}


class FlowRun(Frozen):
    """A flow run that may be open in Prefect, or the call of a flow, which may have made one."""

    id: str  # of a call: its tag
    api: str  # the server that shows it, or OWN
    process: ProcessId
    ended: Ended | None = None  # None: its process runs, or was killed


@contextmanager
def called(folder: Path) -> Iterator[None]:
    """Note the tag of a flow call, before Prefect makes its run.

    The run is Running before any code of this project runs: killed at that moment it would be in
    no file.
    """
    from prefect import tags

    process = ProcessId.current()
    tag = f"{process.host}-{process.pid}-{process.created:.0f}"
    file = folder / "flow_runs" / "called" / tag
    _write(file, FlowRun(id=tag, api=_api(folder), process=process))
    try:
        with tags(tag):
            yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def remembered(folder: Path) -> Iterator[None]:
    """Around the body of a flow: its run is known on disk before anything is computed."""
    from prefect.runtime import flow_run

    if flow_run.id is None:
        yield
        return
    entry = FlowRun(id=str(flow_run.id), api=_api(folder), process=ProcessId.current())
    file = folder / "flow_runs" / f"{entry.id}.json"
    _write(file, entry)
    ended: Ended = "cancelled"  # Ctrl-C, SIGTERM, a cancel from the UI
    try:
        yield
        ended = "completed"
    except Exception:
        ended = "failed"
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it causes
            _write(file, entry.model_copy(update={"ended": ended}))


def is_any_open(folder: Path) -> bool:
    """Return whether Prefect may have wrong states of this campaign."""
    return bool(_remembered(folder))


def reconcile(folder: Path, verdict: Ended) -> int:
    """Set the final states of this campaign's ended runs; return how many were wrong.

    `verdict` is for runs that were killed. Call it while holding the campaign: then every process
    but this one is dead that ran it, here or on another host. Where a run's server cannot be asked,
    such as one that answers on another host alone, the run stays remembered for the next time.
    """
    mine, num_wrong = ProcessId.current(), 0
    of_server: dict[str, dict[Path, FlowRun]] = {}
    for file, entry in _remembered(folder).items():
        is_dead = entry.ended is not None or not entry.process.is_same(mine)
        if is_dead and (entry.process.is_here or not is_of_its_host(entry.api)):
            of_server.setdefault(entry.api, {})[file] = entry
    for api, left in of_server.items():
        try:
            with _client(api, folder) as client:
                for file, entry in left.items():
                    num_wrong += _reconcile_entry(client, entry, verdict)
                    file.unlink(missing_ok=True)
        except Exception as error:  # noqa: BLE001  Prefect shows; it never fails a campaign
            log.warning("Prefect is told about %d run(s) later: %s", len(left), error)
    return num_wrong


def _remembered(folder: Path) -> dict[Path, FlowRun]:
    """Return the runs and calls that Prefect may have wrong, by file, oldest first."""
    found: list[tuple[int, Path, FlowRun]] = []
    for file in (*(folder / "flow_runs").glob("*.json"), *(folder / "flow_runs/called").glob("*")):
        with contextlib.suppress(FileNotFoundError, ValidationError):
            entry = FlowRun.model_validate_json(file.read_bytes())
            found.append((file.stat().st_mtime_ns, file, entry))
    return {file: entry for _, file, entry in sorted(found, key=lambda known: known[:2])}


def _api(folder: Path) -> str:
    """Return the address of the server that shows this process's runs, or OWN."""
    return others_api(CampaignPaths(folder.parent)) or OWN


@contextmanager
def _client(api: str, folder: Path) -> Iterator["SyncPrefectClient"]:
    """Yield a client of the server at `api`; start this folder's own where it does not run.

    Raises ServiceError where it does not answer.
    """
    with ExitStack() as stack:
        if api == OWN:
            api = stack.enter_context(own_server(CampaignPaths(folder.parent)))
        elif (found := trouble(api)) is not None:
            raise ServiceError(f"the server at {api} {found}")
        yield stack.enter_context(client_of(api))


def _reconcile_entry(client: "SyncPrefectClient", entry: FlowRun, verdict: Ended) -> int:
    """Set the state of one run, or of those of a call; return how many were wrong."""
    try:
        run_ids = [UUID(entry.id)]
    except ValueError:
        run_ids = _called_by(client, entry.id)
    return sum(_reconcile_run(client, run_id, entry.ended or verdict) for run_id in run_ids)


def _called_by(client: "SyncPrefectClient", tag: str) -> list[UUID]:
    """Return the runs with this tag that have no final state."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    made = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])), limit=200
    )
    return [run.id for run in made if run.state is None or not run.state.is_final()]


def _reconcile_run(client: "SyncPrefectClient", run_id: UUID, verdict: Ended) -> int:
    """Set the states of one run and its tasks; return 1 where any of them was wrong, else 0."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import TaskRunSort
    from prefect.exceptions import ObjectNotFound

    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return 0  # its database was deleted
    wrong = _is_wrong(state, verdict)
    if wrong:
        client.set_flow_run_state(run_id, _state(verdict), force=True)
    only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    for task in client.read_task_runs(flow_run_filter=only, sort=TaskRunSort.ID_DESC, limit=200):
        # A flow that ended well leaves no task behind that did not.
        of_task: Ended = "cancelled" if verdict == "cancelled" else "crashed"
        if _is_wrong(task.state, of_task):
            client.set_task_run_state(task.id, _state(of_task), force=True)
            wrong = True
    return int(wrong)


def _is_wrong(state: "State[Any] | None", verdict: Ended) -> bool:
    """Return whether a state is not final, or is crashed or failed for a cancelled run.

    Prefect's engine cannot tell a cancelled run from those.
    """
    if state is None or not state.is_final():
        return True
    is_given_up = state.is_failed() and GIVEN_UP in (state.message or "")
    return verdict == "cancelled" and (state.is_crashed() or is_given_up)


def _state(verdict: Ended) -> "State[Any]":
    from prefect.states import Cancelled, Completed, Crashed, Failed

    chosen = {"completed": Completed, "failed": Failed, "cancelled": Cancelled, "crashed": Crashed}
    return chosen[verdict](message=MESSAGES[verdict])


def _write(file: Path, entry: FlowRun) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, entry.model_dump_json().encode())
