"""Prefect hears how killed runs ended: the very server that shows them, or none and later."""

import json
import logging
import os
import socket
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from afd.processes import ProcessId
from flows.library_env import leave_loopback_out_of_proxies
from flows.paths import CampaignPaths
from flows.prefect_runs import flow_runs, keeper
from flows.prefect_runs.flow_runs import OWN, FlowRun, reconcile
from flows.prefect_runs.services import OwnPrefect, own_server

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ELSEWHERE = {"host": "elsewhere"}
# What a shell may hold for another server, or for a network without loopback.
THEIRS = {
    "PREFECT_UI_API_URL": "http://theirs:4200/api",
    "PREFECT_UI_SERVE_BASE": "/theirs",
    "PREFECT_SERVER_API_BASE_PATH": "/theirs/api",
    "PREFECT_SERVER_API_AUTH_STRING": "they:theirs",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://theirs/prefect",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "no_proxy": "theirs",
    "NO_PROXY": "theirs",
}
EARLIER = {"created": 1.0}  # our number, not us: a container has few


def remember(folder: Path, entry_id: str, api: str, where: str = "", **process: Any) -> Path:
    entry = FlowRun(id=entry_id, api=api, process=ProcessId.current().model_copy(update=process))
    file = folder / "flow_runs" / where / (entry_id if where else f"{entry_id}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(entry.model_dump_json())
    return file


def running(client: "SyncPrefectClient", *tags: str) -> UUID:
    """A run that Prefect takes to run."""
    from prefect import Flow
    from prefect.states import Running

    def nothing() -> None:
        pass

    run = client.create_flow_run(Flow(nothing, name="afd"), parameters={}, tags=tags)
    client.set_flow_run_state(run.id, Running(), force=True)
    return run.id


@pytest.mark.campaign
def test_the_folders_own_server_is_told_also_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a shell that knows no server, as after `afd cancel --now`, but is full of settings for
    another one."""
    from prefect.client.orchestration import SyncPrefectClient

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, value in THEIRS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.toml").write_text('[server.ui]\napi_url = "http://theirs:4200/api"\n')
    leave_loopback_out_of_proxies()
    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    folder = paths.runs / "demo"
    own = OwnPrefect(paths)
    own.start()
    own.wait()
    ui = json.loads(urllib.request.urlopen(f"{own.api.removesuffix('/api')}/ui-settings").read())
    assert ui["api_url"] == "/api" and ui["v1_base_url"] == "/" and ui["auth"] is None
    with SyncPrefectClient(own.api) as client:
        run_ids = [running(client), running(client), running(client, "a-tag")]
    remember(folder, str(run_ids[0]), OWN, **ELSEWHERE)
    remember(folder, str(run_ids[1]), OWN, **EARLIER)
    remember(folder, "a-tag", OWN, "called", **ELSEWHERE)
    mine = remember(folder, "11111111-2222-3333-4444-555555555555", OWN)
    own.let_go()
    known = paths.runs / ".services" / "prefect" / keeper.KNOWN
    deadline = time.monotonic() + 60
    while known.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert reconcile(folder, "cancelled") == 3
    assert [file for file in (folder / "flow_runs").rglob("*") if file.is_file()] == [mine]
    assert "PREFECT_API_URL" not in os.environ
    with own_server(paths) as api, SyncPrefectClient(api) as client:
        states = {client.read_flow_run(run_id).state_name for run_id in run_ids}
    assert states == {"Cancelled"}


def test_a_run_of_a_server_that_cannot_be_asked_stays_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def forget(client: "SyncPrefectClient", *_: object) -> int:
        asked.append(str(client.api_url))
        return 0

    with socket.socket() as probe:  # nobody listens there
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # another one since then
    monkeypatch.setattr(flow_runs, "_reconcile_entry", forget)
    ids = [f"11111111-2222-3333-4444-{number:012}" for number in range(3)]
    files = [
        remember(tmp_path, ids[0], f"http://127.0.0.1:{port}/api", **EARLIER),
        remember(tmp_path, ids[1], "http://127.0.0.1:9/api", **ELSEWHERE),  # that host's, not ours
        remember(tmp_path, "a-tag", f"http://127.0.0.1:{port}/api", "called", **EARLIER),
    ]
    with caplog.at_level(logging.WARNING):
        assert reconcile(tmp_path, "cancelled") == 0
    assert asked == []
    assert all(file.exists() for file in files)
    assert "told about 2 run(s) later" in caplog.text
