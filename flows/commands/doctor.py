"""`afd doctor`: is everything here that a campaign needs, and what to do about what is not."""

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from afd.config import Cluster
from afd.params import secret_fields
from flows import dvc_locks
from flows.choices import chosen_cluster
from flows.commands.doctor_cluster import Finding, slurm_findings
from flows.commands.doctor_disk import disk_findings
from flows.mlflow_runs.tracking import without_password
from flows.places import Places
from flows.prefect_runs.reach import configured_api, trouble
from flows.quiet import QUIET

PINS = Path("requirements.lock")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TELEMETRY = (
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "DO_NOT_TRACK",
    "MLFLOW_DISABLE_TELEMETRY",
    "DVC_NO_ANALYTICS",
)


def examine(runs: Path, store: Path, cluster: Path) -> int:
    """Print every finding; 0 when a campaign can run, 2 when something it needs is missing."""
    table = Table("", "what", "finding", show_lines=False)
    findings = list(_findings(runs, store, chosen_cluster(cluster)))
    signs = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "missing": "[red]missing[/]"}
    for found in findings:
        table.add_row(signs[found.verdict], found.what, found.told)
    Console().print(table)
    return 2 if any(found.verdict == "missing" for found in findings) else 0


def _findings(runs: Path, store: Path, cluster: Cluster) -> Iterator[Finding]:
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        lambda: disk_findings("runs", runs),
        lambda: disk_findings("store", store),
        _git,
        _dvc,
        lambda: _mlflow(Places(runs, store).tracking_uri(cluster.mlflow)),
        _prefect,
        _telemetry,
        _secrets,
        _browser,
        lambda: slurm_findings(cluster, runs, store),
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
    for lock in dvc_locks.locks(Path.cwd()):
        told = f"{lock.told}{f': {lock.cure}' if lock.cure else ''}"
        yield Finding("dvc lock", "warning" if lock.is_stale and lock.cure else "ok", told)


def _mlflow(uri: str) -> Iterator[Finding]:
    if not uri.startswith("sqlite:///"):
        yield _mlflow_server(uri)
        return
    file = Path(uri.removeprefix("sqlite:///"))
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


def _mlflow_server(uri: str) -> Finding:
    shown = without_password(uri)
    if not uri.startswith("http"):
        return Finding("mlflow", "ok", shown)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{uri.rstrip('/')}/version", timeout=5) as response:
            theirs = response.read(100).decode(errors="replace")
    except (OSError, ValueError) as error:
        told = (
            f"{shown} does not answer ({error}): metrics wait on disk and are told later; start "
            "it, or change `mlflow` in the cluster's params (or MLFLOW_TRACKING_URI)"
        )
        return Finding("mlflow", "warning", told)
    fits = theirs.split(".")[0] == version("mlflow").split(".")[0]
    told = f"{shown} is MLflow {theirs}, {version('mlflow')} here"
    return Finding("mlflow", "ok" if fits else "warning", told)


def _telemetry() -> Iterator[Finding]:
    """What a user's own environment turns on again."""
    switched = [name for name in TELEMETRY if os.environ.get(name) != QUIET[name]]
    if switched:
        told = f"{', '.join(switched)} changed by your environment: unset it to stay quiet"
        yield Finding("telemetry", "warning", told)
    else:
        yield Finding("telemetry", "ok", "off: nothing phones home")


def _secrets() -> Iterator[Finding]:
    """Keys that were pasted into params, which go into manifests and repositories."""
    found = [
        f"{file}: {field}"
        for file in sorted(Path("params").rglob("*.yaml"))
        for field in secret_fields(file)
    ]
    if found:
        told = f"{', '.join(found)} look like secrets: write the NAME of a variable, change the key"
        yield Finding("secrets", "missing", told)
    else:
        yield Finding("secrets", "ok", "none in params/")


def _prefect() -> Iterator[Finding]:
    api = configured_api()
    if api is None:
        told = f"prefect {version('prefect')}; a campaign starts its own server"
        yield Finding("prefect", "ok", told)
    elif (found := trouble(api)) is None:
        yield Finding("prefect", "ok", f"the server at {api} answers and its version fits")
    else:
        told = f"the server at {api} {found}; campaigns run without it meanwhile"
        yield Finding("prefect", "warning", told)


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
