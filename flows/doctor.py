"""`afd doctor`: is everything here that a campaign needs, and what to do about what is not."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from flows.services import answers, configured_api

PINS = Path("requirements.lock")
FREE_GB = 3.0  # a pocket campaign leaves 0.3 GB in the store and as much in dvc's cache
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
Verdict = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Finding:
    what: str
    verdict: Verdict
    told: str


def examine(runs: Path, store: Path) -> int:
    """Print every finding; 0 when a campaign can run, 2 when something it needs is missing."""
    table = Table("", "what", "finding", show_lines=False)
    findings = list(_findings(runs, store))
    signs = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "missing": "[red]missing[/]"}
    for found in findings:
        table.add_row(signs[found.verdict], found.what, found.told)
    Console().print(table)
    return 2 if any(found.verdict == "missing" for found in findings) else 0


def _findings(runs: Path, store: Path) -> Iterator[Finding]:
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        lambda: _disk("runs", runs),
        lambda: _disk("store", store),
        _git,
        _dvc,
        lambda: _mlflow(runs),
        _prefect,
        _browser,
    ]
    for check in checks:
        yield from check()


def _python() -> Iterator[Finding]:
    found = sys.version_info[:2]
    told = f"{platform.python_version()} at {sys.executable}"
    if found < (3, 11):
        yield Finding("python", "missing", f"{told}; 3.11 or newer is needed")
    else:
        yield Finding("python", "ok" if found == (3, 11) else "warning", f"{told}; tested on 3.11")


def _packages() -> Iterator[Finding]:
    """Installed versions against the lock file, where there is one."""
    if not PINS.exists():
        yield Finding("packages", "warning", f"no {PINS} here: run it in the project's folder")
        return
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", PINS.read_text(), flags=re.MULTILINE))
    absent, others = [], []
    for name, pinned in pins.items():
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            absent.append(name)
            continue
        if installed != pinned:
            others.append(f"{name} {installed} (tested: {pinned})")
    if absent:
        yield Finding("packages", "missing", f"{', '.join(absent)}: make demo installs them")
    if others:
        yield Finding("packages", "warning", f"other versions than tested: {', '.join(others)}")
    if not absent and not others:
        yield Finding("packages", "ok", f"all {len(pins)} as tested")


def _disk(what: str, folder: Path) -> Iterator[Finding]:
    """Whether the folder (or the one it would be made in) can be written, synced and has room."""
    at = folder.resolve()
    while not at.exists():
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
    yield Finding(what, enough, f"{at}: {free:.1f} GB free")


def _git() -> Iterator[Finding]:
    try:
        revision, state = (_git_says(*asked) for asked in (("rev-parse", "HEAD"), _STATUS))
    except (OSError, subprocess.SubprocessError):
        told = "no git repository: manifests will say revision unknown"
        yield Finding("git", "warning", told)
        return
    is_dirty = bool(state)
    told = f"{revision[:10]}{', with uncommitted changes' if is_dirty else ''}"
    yield Finding("git", "warning" if is_dirty else "ok", told)


def _dvc() -> Iterator[Finding]:
    if not Path(".dvc/config").exists():
        yield Finding(
            "dvc", "warning", "no .dvc here: rounds are kept in the store only (dvc init)"
        )
        return
    yield Finding("dvc", "ok", f"dvc {version('dvc')}, repository {Path.cwd()}")


def _mlflow(runs: Path) -> Iterator[Finding]:
    file = runs / ".services" / "mlflow" / "mlflow.db"
    if not file.exists():
        yield Finding("mlflow", "ok", f"{file} will be made by the first campaign")
        return
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5) as database:
            (num_runs,) = database.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        told = f"{file}: {error}; move it away, the lineage is written again from the store"
        yield Finding("mlflow", "warning", told)
        return
    yield Finding("mlflow", "ok", f"{file}: {num_runs} runs")


def _prefect() -> Iterator[Finding]:
    api = configured_api()
    if api is None:
        told = f"prefect {version('prefect')}; a campaign starts its own server"
        yield Finding("prefect", "ok", told)
    elif answers(api):
        yield Finding("prefect", "ok", f"the server at {api} answers")
    else:
        told = (
            f"the server at {api} does not answer: start it, unset PREFECT_API_URL or --no-prefect"
        )
        yield Finding("prefect", "missing", told)


def _browser() -> Iterator[Finding]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        yield Finding("browser", "warning", "no Chromium: the tests that open pages will skip")
    else:
        yield Finding("browser", "ok", found)


_STATUS = ("status", "--porcelain", "--untracked-files=no")


def _git_says(*arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
