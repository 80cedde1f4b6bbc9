"""Prefect's runs of a campaign, remembered in its folder until Prefect tells the truth about them.

    runs/<name>/flow_runs/<id>.json        a flow run of this campaign: its process, how it ended
    runs/<name>/flow_runs/called/<tag>     a process that calls a flow: runs it makes have that tag

Prefect hears of an end from the process that ends. A killed one, or one whose server was away, says
nothing, and the run would stay Running for ever. The folder knows better: whoever holds the
campaign next, or `afd up`, `afd cancel`, `afd resume`, brings Prefect in line.
"""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import ValidationError

from afd.config import Frozen
from afd.stages.mailbox import Owner
from afd.store import write_atomic

if TYPE_CHECKING:
    from prefect import State
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)
GIVEN_UP = "GivenUpError"  # how a stage ends that computed beside the one that was interrupted
Ended = Literal["completed", "failed", "cancelled", "crashed"]
SAID: dict[Ended, str] = {
    "completed": "its process finished while the server was away",
    "failed": "its process failed while the server was away",
    "cancelled": "cancelled; everything finished is kept, `afd resume` goes on",
    "crashed": "its process is gone; everything finished is kept, `afd resume` goes on",
}


class FlowRun(Frozen):
    """A flow run that may be open in Prefect."""

    id: str
    api: str
    process: Owner
    ended: Ended | None = None  # None: its process runs, or was killed


@contextmanager
def called(folder: Path) -> Iterator[None]:
    """Around the call of a flow: Prefect makes the run, and it is Running before anything of ours
    is: killed just then it would be in no file. Its tag is."""
    from prefect import tags

    process = Owner.me()
    tag = f"{process.host}-{process.pid}-{process.created:.0f}"
    file = folder / "flow_runs" / "called" / tag
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, process.model_dump_json().encode())
    try:
        with tags(tag):
            yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def remembered(folder: Path) -> Iterator[None]:
    """Around the body of a flow: its run is known on disk before anything is computed."""
    from prefect.runtime import flow_run
    from prefect.settings import PREFECT_API_URL

    if flow_run.id is None:
        yield
        return
    api = PREFECT_API_URL.value() or ""
    entry = FlowRun(id=str(flow_run.id), api=str(api), process=Owner.me())
    _write(folder, entry)
    ended: Ended = "cancelled"  # Ctrl-C, SIGTERM, a cancel from the UI
    try:
        yield
        ended = "completed"
    except Exception:
        ended = "failed"
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it causes
            _write(folder, entry.model_copy(update={"ended": ended}))


def open_runs(folder: Path) -> list[FlowRun]:
    """Runs that Prefect may be wrong about, oldest first."""
    found: list[tuple[int, FlowRun]] = []
    for file in (folder / "flow_runs").glob("*.json"):
        with contextlib.suppress(FileNotFoundError, ValidationError):
            entry = FlowRun.model_validate_json(file.read_bytes())
            found.append((file.stat().st_mtime_ns, entry))
    return [entry for _, entry in sorted(found, key=lambda known: known[0])]


def is_any_open(folder: Path) -> bool:
    """Whether Prefect may be wrong about this campaign."""
    return bool(open_runs(folder) or _left_calls(folder))


def _left_calls(folder: Path) -> list[Path]:
    """Calls of flows by processes that are gone."""
    found: list[Path] = []
    for file in (folder / "flow_runs" / "called").glob("*"):
        with contextlib.suppress(FileNotFoundError, ValidationError):
            if not Owner.model_validate_json(file.read_bytes()).is_alive():
                found.append(file)
    return found


def settle(folder: Path, verdict: Ended) -> int:
    """Bring Prefect in line with this campaign's ended runs; gives how many it was wrong about.

    `verdict` is for runs that were killed. Call it while holding the campaign. Where the server
    cannot be asked the runs stay remembered for the next time.
    """
    mine = Owner.me()
    entries = [
        entry
        for entry in open_runs(folder)
        if entry.ended is not None
        or (entry.process.pid != mine.pid and not entry.process.is_alive())
    ]
    calls = _left_calls(folder)
    if not entries and not calls:
        return 0
    from prefect.client.orchestration import get_client

    num_wrong = 0
    try:
        with get_client(sync_client=True) as client:
            for entry in entries:
                num_wrong += _settle(client, UUID(entry.id), entry.ended or verdict)
                (folder / "flow_runs" / f"{entry.id}.json").unlink(missing_ok=True)
            for call in calls:
                for run_id in _called_by(client, call.name):
                    num_wrong += _settle(client, run_id, verdict)
                call.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001  Prefect shows; it never fails a campaign
        log.warning("Prefect is told about %d run(s) later: %s", len(entries), error)
    return num_wrong


def _called_by(client: "SyncPrefectClient", tag: str) -> list[UUID]:
    """The runs that a process has made and not ended."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    made = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])), limit=200
    )
    return [run.id for run in made if run.state is None or not run.state.is_final()]


def _settle(client: "SyncPrefectClient", run_id: UUID, verdict: Ended) -> int:
    """One run and its tasks; gives 1 when Prefect was wrong about any of them."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import TaskRunSort
    from prefect.exceptions import ObjectNotFound

    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return 0  # another server's, or its database was deleted
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
    """Whether Prefect takes it to run, or calls what was cancelled crashed or failed: its engine
    cannot tell."""
    if state is None or not state.is_final():
        return True
    is_given_up = state.is_failed() and GIVEN_UP in (state.message or "")
    return verdict == "cancelled" and (state.is_crashed() or is_given_up)


def _state(verdict: Ended) -> "State[Any]":
    from prefect.states import Cancelled, Completed, Crashed, Failed

    chosen = {"completed": Completed, "failed": Failed, "cancelled": Cancelled, "crashed": Crashed}
    return chosen[verdict](message=SAID[verdict])


def _write(folder: Path, entry: FlowRun) -> None:
    file = folder / "flow_runs" / f"{entry.id}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, entry.model_dump_json().encode())
