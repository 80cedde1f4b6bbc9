"""`afd cancel` and who holds the campaign at that moment."""

import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from flows import reconcile
from flows.campaign_lock import LOCK, CampaignRunningError
from flows.commands.operate import cancel_campaign
from flows.paths import CampaignPaths


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[BinaryIO]:
    """The kernel's lock of campaign `a`, as a head holds it that has just started or just ends."""
    file = tmp_path / "a" / LOCK
    file.parent.mkdir()
    with file.open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def test_a_head_that_ends_is_waited_for(
    tmp_path: Path, locked: BinaryIO, capsys: pytest.CaptureFixture[str]
) -> None:
    threading.Timer(1.0, fcntl.flock, (locked, fcntl.LOCK_UN)).start()
    cancel_campaign(tmp_path, tmp_path / "store", "a", now=False)
    assert "nothing runs" in capsys.readouterr().out


@pytest.mark.usefixtures("locked")
def test_who_typed_cancel_is_not_told_to_cancel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "LEAVES_S", 0.3)
    with pytest.raises(CampaignRunningError) as caught:
        cancel_campaign(tmp_path, tmp_path / "store", "a", now=False)
    assert "status a" in str(caught.value)
    assert "cancel a" not in str(caught.value)


def test_a_run_that_is_cancelled_before_its_campaign_is_on_disk_leaves_nothing_to_settle(
    tmp_path: Path,
) -> None:
    paths = CampaignPaths(tmp_path / "runs", tmp_path / "store")
    assert reconcile.reconcile("early", paths, "cancelled", end_jobs=True) == reconcile.Reconciled()
    assert not list(tmp_path.iterdir())
