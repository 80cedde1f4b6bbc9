"""MLflow's UI and the campaign pages of a folder: `afd ui`."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from afd.runtime.outcome import RefusedError
from flows.command_text import command
from flows.commands.page_server import served
from flows.commands.status import campaigns_in, known_campaign
from flows.last_command import read_last_command
from flows.library_env import DEFAULTS, is_verbose
from flows.mlflow_runs.client import without_password
from flows.mlflow_runs.run_ids import CAMPAIGN, RunIds
from flows.paths import CampaignPaths
from flows.prefect_runs.services import ServiceError, tail

START_PATIENCE_S = 120.0
SERVER_VARIABLES = ("MLFLOW_", "_MLFLOW_", "GUNICORN_", "UVICORN_", "FLASK_", "WAITRESS_")
LOG = "mlflow-ui.log"  # of the server, since its last start


def serve_mlflow(runs: Path, campaign: str | None, port: int, *, dry: bool) -> None:
    """Serve the UI and the campaign pages, opened on one campaign if named, until Ctrl-C.

    Raises RefusedError for a campaign or port that cannot be, ServiceError if it does not start.
    """
    if not 0 < port < 65536:
        raise RefusedError(f"--port {port}: a port is a number from 1 to 65535, e.g. 5000")
    paths = CampaignPaths(runs)
    page = f"http://127.0.0.1:{port}/#/experiments{_run_of(campaign, paths)}"
    uri = _absolute(paths.tracking_uri(_chosen(campaign, paths), make=not dry))
    if uri.startswith("http"):
        page = page.replace(f"http://127.0.0.1:{port}", without_password(uri).rstrip("/"))
        sys.stdout.write(f"{page}\n")  # a server of its own shows it already
        return
    serve = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    serve += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri]
    if _is_taken(port):
        raise RefusedError(f"--port {port}: something listens there already; choose another")
    if dry:
        sys.stdout.write(f"{page}\n{' '.join(serve)}\n")
        return
    log = paths.runs / ".services" / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt), log.open("wb") as out:
        # A session of its own: Ctrl-C is for this process, which ends the server in order.
        server = subprocess.Popen(
            serve,
            env=server_environment(),
            cwd=log.parent,  # a gunicorn.conf.py or .env of the user's folder is not its own
            stdin=subprocess.DEVNULL,
            stdout=None if is_verbose() else out,
            stderr=None if is_verbose() else out,
            start_new_session=True,
        )
        try:
            _wait(server, port, log)
            with served(paths, f"http://127.0.0.1:{port}", port + 1) as pages:
                at = f"{pages}/{campaign}/" if campaign else f"{pages}/"
                sys.stdout.write(f"MLflow   {page}   Ctrl-C stops\n")
                sys.stdout.write(f"pages    {at}\n")
                sys.stdout.flush()
                server.wait()
        finally:
            server.terminate()
            server.wait(30)


def server_environment() -> dict[str, str]:
    """Return the environment of a server of our own.

    No variable that configures a server goes in: those are for another one (its registry, where it
    keeps artifacts, its users), and ours would write there.
    """
    mine = {n: value for n, value in os.environ.items() if not n.startswith(SERVER_VARIABLES)}
    return {**mine, **DEFAULTS}


def _chosen(campaign: str | None, paths: CampaignPaths) -> str | None:
    """Return the MLflow server in the cluster's params of a campaign, or of the latest one."""
    folders = campaigns_in(paths.runs) if campaign is None else [paths.runs / campaign]
    last = read_last_command(folders[-1]) if folders else None
    return None if last is None else last.cluster.mlflow


def _absolute(uri: str) -> str:
    """Return the address of a database file from the root on, any other one as it is."""
    file = uri.removeprefix("sqlite:///")
    return uri if file == uri else f"sqlite:///{Path(file).resolve()}"


def _run_of(campaign: str | None, paths: CampaignPaths) -> str:
    """Return the path of a campaign's run in the UI."""
    if campaign is None:
        return ""
    folder = known_campaign(campaign, paths.runs)
    ids = RunIds(folder).read(CAMPAIGN)
    if "run_id" not in ids:
        raise RefusedError(
            f"{campaign}: MLflow has nothing of it yet\n"
            f"  {command('ui', runs=paths.runs)}    opens on all campaigns"
        )
    return f"/{ids['experiment_id']}/runs/{ids['run_id']}?workflowType=machine_learning"


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Wait until the server answers; raises ServiceError after START_PATIENCE_S."""
    deadline = time.monotonic() + START_PATIENCE_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"http://127.0.0.1:{port}/health", timeout=2).close()
            if server.poll() is None:
                return
        time.sleep(0.2)
    raise ServiceError(
        f"MLflow's UI did not start on port {port}; its log is {log}:\n{tail(log)}\n"
        "  another --port may be free"
    )
