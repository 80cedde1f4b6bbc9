"""Campaign page beside a campaign: runs/<name>/index.html, written anew after every round.

`python -m afd.campaign_page` makes it, a process of its own at the lowest priority: the head waits
for it at its end alone, and not for long. A page that fails costs a line in page.log.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from afd.artifacts import ArtifactRef
from afd.campaign_page.request import FOLDER, PAGE, REQUEST, Change, Link, PageRequest
from afd.config import Params
from flows import alarm_log
from flows.command_text import command
from flows.mlflow_runs.client import without_password
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.params_source import read_source
from flows.prefect_runs.flow_runs import OWN, FlowRun
from flows.round_files import known_round

log = logging.getLogger(__name__)
LOG = "page.log"
END_PATIENCE_S = 20.0  # 2 s of CPU at the lowest priority; what is left then goes on alone
UI = "http://127.0.0.1:5000"  # of `afd ui`, unless told otherwise
PREFECT = "Prefect run"


class PageWriter:
    """Writes the page of one campaign in the background, the latest request at last."""

    def __init__(self, folder: Path, store: Path, params: Params, tracking_uri: str) -> None:
        self._folder, self._store, self._params, self._uri = folder, store, params, tracking_uri
        self._next: PageRequest | None = None
        self._latest: PageRequest | None = None  # may still be on its way to the disk
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="campaign-page", daemon=True)

    def write(self, state: str = "running") -> None:
        """Have the page show the campaign as its folder has it now; returns at once."""
        try:
            page = page_request(self._folder, self._store, self._params, self._uri, state)
        except OSError as error:
            log.warning("the campaign page is not written: %s", error)
            return
        if page == (self._latest or read_request(self._folder)):
            return  # a finished campaign, typed again
        with self._changed:
            self._next = self._latest = page
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify()

    def close(self, state: str) -> None:
        """Write the last page and wait for it, at most END_PATIENCE_S."""
        self.write(state)
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(END_PATIENCE_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None or self._is_closed)
                request, self._next = self._next, None
            if request is None:
                return
            try:
                compose(request).wait()
            except OSError as error:  # a full disk: the campaign says it
                log.warning("the campaign page is not written: %s", error)


def compose(request: PageRequest) -> "subprocess.Popen[bytes]":
    """Start the process that writes the page; it outlives this one."""
    folder = Path(request.folder)
    content = folder / FOLDER / f".{os.getpid()}-{threading.get_ident()}.json"
    content.parent.mkdir(exist_ok=True)
    content.write_text(request.model_dump_json())
    with (folder / FOLDER / LOG).open("ab") as log, content.open("rb") as stdin:
        process = subprocess.Popen(
            [sys.executable, "-m", "afd.campaign_page"],
            stdin=stdin, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
    content.unlink()
    return process


def page_request(
    folder: Path, store: Path, params: Params, tracking_uri: str, state: str
) -> PageRequest:
    """Return the page of a campaign as its folder is now; `state` is one word of `afd status`."""
    before, source = read_request(folder), read_source(folder)
    rounds = _rounds(folder)
    final = known_round(folder / "rounds" / "final.json")
    names = [one["student"].short for one in rounds if "student" in one]
    goes_on = command("campaign", folder.name, runs=folder.parent, store=store)
    return PageRequest(
        name=folder.name,
        folder=str(folder),
        store=str(store.resolve()),
        state=state,
        detail=_detail(state, len(rounds), params.num_rounds),
        is_running=state == "running",
        started_at=before.started_at if before else _since(folder),
        num_rounds=params.num_rounds,
        params=params.model_dump(mode="json"),
        source="" if source is None else str(source),
        changes=_changes(folder),
        links=_links(folder, tracking_uri, before),
        start=known_round(folder / "rounds" / "start.json"),
        rounds=tuple(rounds),
        final=final,
        show_commands=tuple(
            command("show", name, runs=folder.parent, store=store) for name in names
        ),
        alarms=tuple(line for one in alarm_log.records(folder) for line in alarm_log.lines(one)),
        next_command="" if state in ("running", "finished") else goes_on,
    )


def read_request(folder: Path) -> PageRequest | None:
    """Return the request of the page on disk; None where there is none of this version."""
    try:
        if (folder / PAGE).exists():
            return PageRequest.model_validate_json((folder / FOLDER / REQUEST).read_bytes())
    except (OSError, ValidationError):
        pass
    return None


def _detail(state: str, num_done: int, num_rounds: int) -> str:
    if state == "finished":
        return f"{num_done} rounds" if num_done != 1 else "1 round"
    done = f"{num_done} of {num_rounds} rounds done"
    return f"{done}, final evaluation" if num_done >= num_rounds else done


def _since(folder: Path) -> str:
    at = (folder / "params.yaml").stat().st_mtime
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def _changes(folder: Path) -> tuple[Change, ...] | None:
    source = read_source(folder)
    if source is None or source.changed is None:
        return None
    return tuple(Change(field=f, before=old, after=new) for f, old, new in source.changed)


def _links(folder: Path, uri: str, before: PageRequest | None) -> tuple[Link, ...]:
    """Return links to the known runs in MLflow and Prefect, without a request to a server."""
    links: list[Link] = []
    ids = RunIds(folder).read(CAMPAIGN)
    if {"experiment_id", "run_id"} <= ids.keys():
        is_server = uri.startswith("http")
        at = without_password(uri).rstrip("/") if is_server else UI
        page = f"{at}/#/experiments/{ids['experiment_id']}/runs/{ids['run_id']}"
        ui = command("ui", folder.name, runs=folder.parent)
        note = "" if is_server else f"after `{ui}`"
        href = f"{page}?workflowType=machine_learning"
        links.append(Link(label="MLflow run", href=href, note=note))
    known = [link for link in (before.links if before else ()) if link.label == PREFECT]
    return (*links, *(_prefect(folder) or known))


def _prefect(folder: Path) -> list[Link]:
    """Return a link to the last flow run on disk, on the server that shows it."""
    files = sorted((folder / "flow_runs").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in reversed(files):
        with contextlib.suppress(OSError, ValueError):
            run = FlowRun.model_validate_json(file.read_bytes())
            port = folder.parent / ".services" / "prefect" / "port"
            own = f"http://127.0.0.1:{port.read_text().strip()}" if run.api == OWN else ""
            at = own or without_password(run.api).removesuffix("/").removesuffix("/api")
            up = command("up", runs=folder.parent)
            note = f"while its server runs: `{up}`" if own else ""
            return [Link(label=PREFECT, href=f"{at}/runs/flow-run/{run.id}", note=note)]
    return []


def _rounds(folder: Path) -> list[dict[str, ArtifactRef]]:
    """Those that are finished, without a gap."""
    found: list[dict[str, ArtifactRef]] = []
    while made := known_round(folder / "rounds" / f"{len(found):03d}.json"):
        found.append(made)
    return found
