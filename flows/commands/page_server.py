"""Campaign pages over HTTP on loopback: an index of all campaigns, each one's page and films.

Nothing else of the folders is served. A page that is missing or out of date (its campaign was
killed, or is of an earlier version) is written at its first request.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afd.campaign_page.request import FILM, FOLDER, PAGE, STAMP
from afd.params import ParamsError
from afd.store import StoreError
from flows import record_files
from flows.campaign_page import UI, compose, page_request, read_request
from flows.commands.status import CampaignStatus, campaigns_in, overview
from flows.paths import CampaignPaths, saved_params

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOSTS = ["127.0.0.1", "localhost"]
REPORT, SUMMARY = "report.html", "summary.json"
COMPOSE_PATIENCE_S = 60.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; img-src 'self' data:; media-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Entry:
    """A campaign on the index."""

    name: str
    state: str
    done: str
    score: str


def application(paths: CampaignPaths, mlflow: str) -> "Starlette":
    """Return the application of the campaigns' pages; links to MLflow go to `mlflow`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse
    from starlette.routing import Route

    lock = threading.Lock()  # one page is written at a time

    def index(request: "Request") -> "Response":
        from afd.campaign_page.campaigns import render_index

        return HTMLResponse(render_index(entries(paths), mlflow), headers=HEADERS)

    def page(request: "Request") -> "Response":
        folder = _known(paths, request.path_params["name"])
        if folder is None:
            return missing(request)
        with lock:
            _write_if_stale(folder, paths)
        if not (folder / PAGE).exists():
            return PlainTextResponse("the page cannot be written: see page/page.log", 500)
        text = (
            (folder / PAGE).read_text(encoding="utf-8").replace(f'href="{UI}/', f'href="{mlflow}/')
        )
        return HTMLResponse(text, headers=HEADERS)

    def file(request: "Request") -> "Response":
        folder = _known(paths, request.path_params["name"])
        name = request.path_params.get("file", "")
        found = None if folder is None else _file(folder, name)
        return missing(request) if found is None else FileResponse(found, headers=HEADERS)

    def slash(request: "Request") -> "Response":
        if _known(paths, request.path_params["name"]) is None:
            return missing(request)
        return RedirectResponse(f"/{request.path_params['name']}/")

    def missing(request: "Request") -> "Response":
        return PlainTextResponse("there is no such page\n", 404)

    routes = [
        Route("/", index),
        Route("/{name}", slash),
        Route("/{name}/", page),
        Route("/{name}/{file:path}", file),
    ]
    trusted: Any = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    return Starlette(routes=routes, middleware=[trusted])


@contextmanager
def served(paths: CampaignPaths, mlflow: str, port: int) -> Iterator[str]:
    """Serve the pages from a thread until the block ends; yield their address.

    On `port`, or on any where that is taken. Requests have ended when the block has.
    """
    import uvicorn

    listening = _listening(port)
    config = uvicorn.Config(
        application(paths, mlflow), log_level="warning", access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="pages", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)
        listening.close()


def _listening(port: int) -> socket.socket:
    """Return a listening socket on loopback; its queue takes requests before the server runs."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", port))
    except OSError:
        made.bind(("127.0.0.1", 0))
    made.listen()
    return made


def entries(paths: CampaignPaths) -> list[Entry]:
    """Return every campaign with its state and main number, that of the last command first."""
    return [
        Entry(one.name, one.state, _done(one), _score(one.folder))
        for one in reversed(overview(paths.runs).campaigns)
    ]


def _done(one: CampaignStatus) -> str:
    return f"{one.rounds_done} of {one.num_rounds or '?'} rounds"


def _score(folder: Path) -> str:
    """Return the main metric of the final evaluation; empty before it."""
    from afd.evaluation.metric_specs import TRAJECTORY_ERROR, metric_spec
    from afd.evaluation.readings import show

    content = record_files.known_record(folder / SUMMARY, record_files.SUMMARY)
    if content is None:
        return ""
    metrics = content["metrics"]
    name = TRAJECTORY_ERROR if TRAJECTORY_ERROR in metrics else next(iter(metrics), "")
    row, spec = metrics.get(name, {}), metric_spec(name)
    unit = f" {spec.unit}" if spec.unit else ""
    return f"{spec.title.lower()} {show(row.get('student'))}{unit}, base {show(row.get('base'))}"


def _known(paths: CampaignPaths, name: str) -> Path | None:
    """Return the folder of a campaign of exactly this name, None without one."""
    return next((one for one in campaigns_in(paths.runs) if one.name == name), None)


def _file(folder: Path, name: str) -> Path | None:
    """Return a film, the stamp or the report; None for other files and links out of the folder."""
    inside = name.removeprefix(f"{FOLDER}/")
    is_allowed = name == REPORT or (inside != name and (inside == STAMP or FILM.fullmatch(inside)))
    path = folder / name
    if not is_allowed or not path.is_file():
        return None
    return path if path.resolve().is_relative_to(folder.resolve()) else None


def _write_if_stale(folder: Path, paths: CampaignPaths) -> None:
    """Write the page where it is out of date and no process of the campaign is to write it."""
    try:
        params = saved_params(folder)
    except ParamsError:
        params = None
    if params is None:
        return
    (one,) = overview(paths.runs, folder.name).campaigns
    before = read_request(folder)
    store = Path(one.last_command.store) if one.last_command else paths.store
    uri = paths.tracking_uri(one.last_command.cluster.mlflow if one.last_command else None)
    try:
        wanted = page_request(folder, store, params, uri, one.state)
    except StoreError:
        return
    if before == wanted or (before is not None and one.state == "running" and before.is_running):
        return
    compose(wanted).wait(COMPOSE_PATIENCE_S)
