"""`afd up` and `afd down` after another host of the same folder was up."""

import errno
import fcntl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from afd.processes import ProcessId
from afd.store import write_atomic, write_json
from flows.commands.operate import print_status
from flows.commands.up import STATE, Up, bring_up, read_up, take_down
from flows.paths import CampaignPaths
from flows.prefect_runs import keeper
from flows.prefect_runs.services import OwnPrefect, ServiceError


@contextmanager
def bystander() -> "Iterator[subprocess.Popen[bytes]]":
    """A process of this host that has nothing to do with it all."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def left(paths: CampaignPaths, pid: int, *, is_own: bool = True) -> Path:
    """What `afd up` left that was typed on another host, where its process has the number `pid`;
    gives the folder of the server."""
    there = ProcessId.of(pid).model_copy(update={"host": "elsewhere"})
    home = (paths.runs / ".services" / "prefect").resolve()
    home.mkdir(parents=True, exist_ok=True)
    up = Up(serving=there, api="http://127.0.0.1:9/api", is_own=is_own)
    write_atomic(home.parent / STATE, up.model_dump_json().encode())
    write_json(home / keeper.KNOWN, {"port": 9, "keeper": there.model_dump()})
    return home


@contextmanager
def beating(home: Path) -> Iterator[None]:
    """A keeper on the other host, as it is seen from here."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.1):
            number += 1
            write_atomic(home / keeper.BEAT, str(number).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CampaignPaths:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(keeper, "SILENT_S", 1.0)
    monkeypatch.chdir(tmp_path)
    return CampaignPaths(tmp_path / "runs", tmp_path / "store")


def test_no_process_of_this_host_is_ended_for_its_number(paths: CampaignPaths) -> None:
    with bystander() as process:
        home = left(paths, process.pid)
        assert take_down(paths) is None
        assert read_up(paths) is None
        assert process.poll() is None
        left(paths, process.pid)
        with beating(home), pytest.raises(ServiceError, match="up on elsewhere"):
            take_down(paths)
        assert read_up(paths) is not None
        assert process.poll() is None


def test_up_says_on_which_host_it_is_up_and_starts_nothing(
    paths: CampaignPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    with bystander() as process:
        home = left(paths, process.pid)
        with beating(home), pytest.raises(ServiceError, match="up on elsewhere"):
            bring_up(paths)
        assert process.poll() is None
    print_status(paths.runs, None)
    assert "up on elsewhere" in capsys.readouterr().out


def test_who_serves_a_server_of_the_users_own_on_another_host_is_not_known(
    paths: CampaignPaths,
) -> None:
    with bystander() as process:
        left(paths, process.pid, is_own=False)
        for command in (bring_up, take_down):
            with pytest.raises(ServiceError, match=rf"rm .*{STATE}    if elsewhere is lost"):
                command(paths)
        assert process.poll() is None


def test_a_server_is_started_where_another_hosts_is_gone_and_refused_where_it_is_not(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bystander() as process:
        monkeypatch.setattr(OwnPrefect, "_start_keeper", lambda *_: ProcessId.of(process.pid))
        home = left(paths, process.pid)
        with beating(home), pytest.raises(ServiceError, match="runs on elsewhere"):
            OwnPrefect(paths).start()
        own = OwnPrefect(paths)
        own.start()
        now = keeper.known(home)
        assert now is not None and now[1].is_here and f":{now[0]}/" in own.api
        own.let_go()


def test_where_the_disk_knows_no_locks_a_server_of_the_users_own_is_asked_for(
    paths: CampaignPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(ServiceError, match=r"knows no locks.*export its PREFECT_API_URL"):
        bring_up(paths)
