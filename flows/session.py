"""Session of one process on one campaign: lock, params, dispatch, recorder and records.

runs/<name>/params.yaml            the resolved params; only circumstance may change
runs/<name>/rounds/<NNN>.json      what each round made, by role; start and final beside them
runs/<name>/{lock,holder.json}     the process that runs it (campaign_lock.py)
runs/<name>/asked.json             the last command, and its end
runs/<name>/{logs,ledger,workers}  circumstance
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afd.artifacts import ArtifactRef
from afd.config import Cluster, Params
from afd.failpoints import failpoint
from afd.params import ParamsError
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.store import Store, disk_errors, write_json
from flows import dvc_tracking
from flows.alarm_log import PausedError, is_stopped, lines
from flows.campaign_lock import hold_campaign
from flows.campaign_page import PageWriter
from flows.dispatch import Dispatch, build
from flows.jobs.site import Site
from flows.last_command import (
    ClusterSource,
    CommandKind,
    CommandState,
    LastCommand,
    read_last_command,
    restore_last_command,
    write_last_command,
)
from flows.mlflow_runs.facts import status_of
from flows.mlflow_runs.recorder import RunRecorder
from flows.mlflow_runs.run_ids import CampaignEnding
from flows.params_source import ParamsSource
from flows.paths import CampaignPaths, campaign_folder, refuse_unusable, save_params
from flows.progress import ProgressBoard
from flows.round_files import read_round

RECORDING_PATIENCE_S = 2.0  # of recording an end


@dataclass
class Session:
    """Objects that all stages of a campaign share."""

    name: str
    params: Params
    site: Site
    dispatch: Dispatch
    recorder: RunRecorder
    page: PageWriter
    progress: ProgressBoard = field(default_factory=ProgressBoard)
    with_prefect: bool = False
    is_interrupted: bool = False  # Ctrl-C, SIGTERM or a closed terminal: an error is its echo

    def go_on_without_prefect(self, error: Exception) -> None:
        """Go on without Prefect's server; everything it would show is in the store and on disk."""
        if self.with_prefect:
            sys.stderr.write(f"Prefect's server is away, going on without it: {error}\n")
            # Its own threads go on trying and would report each failure.
            logging.getLogger("prefect._internal").setLevel(logging.CRITICAL)
            logging.raiseExceptions = False
        self.with_prefect = False

    @property
    def is_complete(self) -> bool:
        """True where nothing is left to compute."""
        index = self.next_round
        played = index >= self.params.num_rounds or is_stopped(self.site.folder, index)
        return self._is_finished("start") and played and self._is_finished("final")

    @property
    def next_round(self) -> int:
        """The first round that is not finished."""
        index = 0
        while self._is_finished(f"{index:03d}"):
            index += 1
        return index

    def _is_finished(self, name: str) -> bool:
        made = read_round(self.site.folder / "rounds" / f"{name}.json")
        return made is not None and all(self.site.store.have(ref) for ref in made.values())

    def record(self, round_index: int | None, request: StageRequest) -> None:
        """Have MLflow show a finished stage; again costs a look at the disk."""
        failpoint("flow.before_lineage")
        self.recorder.record(round_index, request)
        failpoint("flow.after_lineage")

    def close_round(self, name: str, made: Mapping[str, ArtifactRef]) -> None:
        """Keep what a round made: by role on disk, by content in DVC."""
        file = self.site.folder / "rounds" / f"{name}.json"
        content = {role: ref.model_dump() for role, ref in made.items()}
        if read_round(file) != dict(made):
            with disk_errors(self.site.folder):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, content)
        failpoint("flow.before_versions")
        artifacts = [self.site.store.load(ref) for ref in made.values()]
        index = int(name) if name.isdecimal() else None
        with self.progress.busy("DVC keeps its artifacts", index):
            dvc_tracking.track(self.site.folder, name, artifacts)
        failpoint("flow.after_versions")
        if index is not None:
            self.progress.finish_round(index)
            self.page.write()

    def note_alarms(self, decision: Mapping[str, Any]) -> None:
        """Note what alarms decided after a round, for the terminal."""
        for line in lines(decision):
            self.progress.note(line)


_open_sessions: dict[Path, Session] = {}


@contextmanager
def open_campaign(
    name: str,
    paths: CampaignPaths,
    params: Params,
    cluster: Cluster,
    *,
    with_prefect: bool = False,
    kind: CommandKind = "campaign",
    round_index: int | None = None,
    cluster_source: ClusterSource | None = None,
    params_source: ParamsSource | None = None,
    check: Callable[[Session], None] | None = None,
) -> Iterator[Session]:
    """Hold the campaign; the same campaign opened again in this process is the same session.

    `check` may refuse what is wanted of it, before anything of the campaign is written.
    Raises CampaignRunningError, ParamsError (other params than it was started with), StoreError,
    or what `check` raises.
    """
    folder = campaign_folder(name, paths)
    if folder in _open_sessions:
        yield _open_sessions[folder]
        return
    refuse_unusable(paths)
    with disk_errors(paths.runs):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_campaign(folder, name):
        site = Site(Store(paths.store.resolve()), folder, cluster)
        with disk_errors(site.store.root):
            site.store.tidy()
        uri = paths.tracking_uri(cluster.mlflow)
        recorder = RunRecorder(uri, folder, site.store)
        page = PageWriter(folder, site.store.root, params, uri)
        session = Session(
            name, params, site, build(site), recorder, page, with_prefect=with_prefect
        )
        if check is not None:
            check(session)
        save_params(folder, params)
        if params_source is not None:
            params_source.write(folder)
        command = LastCommand(
            kind=kind,
            round_index=round_index,
            cluster=cluster,
            store=str(site.store.root),
            with_prefect=with_prefect,
            cluster_source=cluster_source,
        )
        _open_sessions[folder] = session
        ending = _Ending()
        try:
            with _recorded_command(session, command, ending):
                recorder.open()
                page.write()
                yield session
                ending.status = "finished" if session.is_complete else "paused"
        finally:
            with _saying_first(name, ending):
                try:
                    session.dispatch.close()
                finally:
                    recorder.close(ending.status)
                    del _open_sessions[folder]
                    page.close(_state_of(session))


def _state_of(session: Session) -> str:
    """Return the campaign's state as one word, once nothing runs."""
    command = read_last_command(session.site.folder)
    return "finished" if session.is_complete or command is None else command.state


@dataclass
class _Ending:
    """End of a session, as far as it is known."""

    status: CampaignEnding = "killed"
    message: str = ""  # of a failure


@contextmanager
def _saying_first(name: str, ending: "_Ending") -> Iterator[None]:
    """Print what has failed when the recording of it takes longer than RECORDING_PATIENCE_S."""
    first = ending.message.strip().partition("\n")[0]
    words = f"{name}: {first}\n  jobs are ended and MLflow is told; the whole message follows\n"
    timer = threading.Timer(RECORDING_PATIENCE_S, lambda: sys.stderr.write(words))
    timer.daemon = True
    if first:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _recorded_command(session: Session, command: LastCommand, ending: "_Ending") -> Iterator[None]:
    """Write the command while it runs, and its end afterwards.

    A refusal that computed nothing restores the command before it. An alarm's pause is written in
    any case, with the command before it, which `afd resume` goes on with.
    """
    folder, message = session.site.folder, ""
    state: CommandState | None = None
    before, ended = read_last_command(folder), status_of(folder)
    is_untouched = False
    write_last_command(folder, command)
    try:
        yield
    except (RefusedError, ParamsError) as error:
        ending.status, message = "paused", str(error)
        if not session.progress.has_computed:
            command = before or command
            is_untouched = not isinstance(error, PausedError)
        if is_untouched and before is not None:
            ending.status = ended
        raise
    except Exception as error:
        if session.is_interrupted:
            state = "cancelled"
        else:
            ending.status, message = "failed", str(error)
            ending.message = message
        raise
    except BaseException:
        state = "cancelled"
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it causes
            if is_untouched:
                restore_last_command(folder, before)
            else:
                changed = {"state": state or ending.status, "message": message}
                write_last_command(folder, command.model_copy(update=changed))


def open_sessions() -> tuple[Session, ...]:
    """Return the sessions that this process has open."""
    return tuple(_open_sessions.values())


def session_of(name: str, paths: CampaignPaths) -> Session | None:
    """Return the campaign's session, None where this process has none open."""
    return _open_sessions.get(campaign_folder(name, paths))
