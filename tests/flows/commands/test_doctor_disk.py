"""`afd doctor` on a disk: its quota as `quota` and `lfs quota` print it, or why it is not known."""

from pathlib import Path

import pytest

from flows.commands import doctor_disk
from flows.commands.doctor_disk import disk_findings, parse_quota, quota_of

# quota -vwp --show-mntpoint --hide-device
QUOTA = """Disk quotas for user ada (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
          /home  19531250*  19000000 20000000  1700000000    1200       0       0       0
       /scratch  1000000        0       0       0    9000   10000   12000       0
          /open  5000           0       0       0       7       0       0       0
"""
LUSTRE = "      /lustre  4882812  9000000 97656250       -  51200       0  600000       -\n"  # -q


def test_the_line_of_the_file_system_is_read() -> None:
    home = parse_quota(QUOTA, Path("/home"))
    assert str(home) == "quota 20.0 GB of 20.5 GB, 1,200 no limit"
    assert home is not None
    assert home.is_short
    scratch = parse_quota(QUOTA, Path("/scratch"))
    assert str(scratch) == "quota 1.0 GB no limit, 9,000 of 12,000 files"
    assert scratch is not None
    assert scratch.is_short  # of files
    lustre = parse_quota(LUSTRE, Path("/lustre"))
    assert str(lustre) == "quota 5.0 GB of 100.0 GB, 51,200 of 600,000 files"
    assert lustre is not None
    assert not lustre.is_short
    assert parse_quota(QUOTA, Path("/open")) is None  # none is set there
    assert parse_quota(QUOTA, Path("/elsewhere")) is None


def test_a_quota_that_is_nearly_used_up_is_a_warning_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that is asked is a stand-in: it prints for this very file system."""
    program = tmp_path / "quota"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$(df --output=target {tmp_path} | tail -1) 19531250* 0 20000000 0 12 0 0 0"\n'
        "exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (found,) = disk_findings("store", tmp_path / "store")
    assert found.verdict == "warning"
    assert "quota 20.0 GB of 20.5 GB" in found.text
    assert "free some space, or choose another --store" in found.text


def test_a_quota_that_cannot_be_asked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert quota_of(tmp_path) == "quota not asked: no `quota` here"
    (tmp_path / "quota").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "quota").chmod(0o755)
    monkeypatch.setattr(doctor_disk, "PATIENCE_S", 0.1)
    assert quota_of(tmp_path) == "quota not known: `quota` did not answer within 0.1 s"
