"""Disk checks of `afd doctor`: writing, free space, the user's quota."""

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.commands.doctor_cluster import Finding, Verdict

FREE_GB = 3.0  # a pocket campaign leaves 0.3 GB in the store and as much in dvc's cache
FREE_FILES = 20_000  # a campaign of a hundred rounds leaves 5,000
PATIENCE_S = 10  # a file server that is away lets `quota` wait
# A line of `quota -vwp` and of `lfs quota -q`: kB used, soft and hard limit, grace; then of files.
LINE = re.compile(
    r"^\s*(/\S*)\s+(\d+)\*?\s+(\d+)\s+(\d+)\s+\S+\s+(\d+)\*?\s+(\d+)\s+(\d+)", re.MULTILINE
)


@dataclass(frozen=True)
class Quota:
    """Use and limits of one user on one file system; a limit of None is no limit."""

    used_gb: float
    limit_gb: float | None
    num_files: int
    max_files: int | None

    @property
    def is_short(self) -> bool:
        short_of_room = self.limit_gb is not None and self.limit_gb - self.used_gb < FREE_GB
        return short_of_room or (
            self.max_files is not None and self.max_files - self.num_files < FREE_FILES
        )

    def __str__(self) -> str:
        room = "no limit" if self.limit_gb is None else f"of {self.limit_gb:.1f} GB"
        files = "no limit" if self.max_files is None else f"of {self.max_files:,} files"
        return f"quota {self.used_gb:.1f} GB {room}, {self.num_files:,} {files}"


def disk_findings(what: str, folder: Path) -> Iterator[Finding]:
    """Check that the folder, or its nearest parent, takes a synced write and has free space."""
    at = folder.resolve()
    while not os.path.lexists(at):  # unlike Path.exists, without raising where none may search
        at = at.parent
    try:
        with tempfile.NamedTemporaryFile(dir=at) as file:
            file.write(b"afd")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding(what, "missing", f"{at} cannot be written: {error.strerror}; choose --{what}")
        return
    free = shutil.disk_usage(at).free / 1e9
    enough: Verdict = "ok" if free >= FREE_GB else "warning"
    room, cure = f"{at}: {free:.1f} GB free", f": free some space, or choose another --{what}"
    quota = quota_of(at)
    if isinstance(quota, Quota) and quota.is_short:
        enough = "warning"
    yield Finding(what, enough, f"{room}; {quota}{cure if enough == 'warning' else ''}")


def quota_of(at: Path) -> Quota | str:
    """Return this user's quota on the file system of `at`, or the reason why it is not known."""
    mounts = [
        (Path(one.mountpoint), one.fstype)
        for one in psutil.disk_partitions(all=True)
        if at.is_relative_to(one.mountpoint)
    ]
    mount, kind = max(mounts, key=lambda one: len(one[0].parts), default=(Path("/"), ""))
    command = ["quota", "-vwp", "--show-mntpoint", "--hide-device"]
    if kind == "lustre":
        command = ["lfs", "quota", "-q", "-u", getpass.getuser(), str(mount)]
    if shutil.which(command[0]) is None:
        return f"quota not asked: no `{command[0]}` here"
    try:  # its exit code is 1 where a quota is used up
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return f"quota not known: `{command[0]}` did not answer within {PATIENCE_S} s"
    return parse_quota(done.stdout, mount) or f"no quota is set on {mount}"


def parse_quota(output: str, mount: Path) -> Quota | None:
    """Return one file system's quota from output of `quota` or `lfs quota`; 0 means no limit."""
    for name, kilobytes, soft, hard, num_files, soft_files, hard_files in LINE.findall(output):
        limit, max_files = int(hard) or int(soft), int(hard_files) or int(soft_files)
        if Path(name) == mount and (limit or max_files):
            return Quota(
                int(kilobytes) * 1024 / 1e9,
                limit * 1024 / 1e9 if limit else None,
                int(num_files),
                max_files or None,
            )
    return None
