"""`afd doctor`: checks of everything that a campaign needs, each fault with its cure."""

import os
import platform
import re
import shutil
import sqlite3
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table
from rich.text import Text

from afd.config import Cluster
from afd.params import ParamsError, secret_fields
from flows.commands.consoles import console
from flows.commands.doctor_cluster import Finding, slurm_findings
from flows.commands.doctor_disk import disk_findings
from flows.commands.doctor_versions import dvc_findings, git_findings
from flows.commands.exit_codes import ExitCode
from flows.commands.json_output import Document, print_document
from flows.inputs import chosen_cluster
from flows.library_env import DEFAULTS
from flows.mlflow_runs.client import without_password
from flows.mlflow_runs.experiment import EXPERIMENT
from flows.paths import MLFLOW_SERVER, CampaignPaths
from flows.prefect_runs.reach import configured_api, trouble

PINS = Path("requirements.lock")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TELEMETRY = (
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "DO_NOT_TRACK",
    "MLFLOW_DISABLE_TELEMETRY",
    "DVC_NO_ANALYTICS",
)
Check = Callable[[], Iterator[Finding]]


def examine(runs: Path, store: Path, cluster: Path, *, as_json: bool = False) -> int:
    """Print every finding; 0 when a campaign can run, 2 when something it needs is missing."""
    table = Table("", "what", "finding", show_lines=False)
    found = findings(runs, store, cluster)
    if as_json:
        print_document(doctor_document(found))
        return ExitCode.REFUSED if _lacks(found) else ExitCode.DONE
    signs = {"ok": "green", "warning": "yellow", "missing": "red"}
    for one in found:
        table.add_row(Text(one.verdict, signs[one.verdict]), Text(one.what), Text(one.text))
    console(None).print(table)
    return ExitCode.REFUSED if _lacks(found) else ExitCode.DONE


def _lacks(found: Sequence[Finding]) -> bool:
    return any(one.verdict == "missing" for one in found)


def findings(runs: Path, store: Path, cluster: Path) -> list[Finding]:
    """Return the findings of every check; a check that raises is a finding itself."""
    paths = CampaignPaths(runs, store)
    found: list[Finding] = []
    chosen: Cluster | None = None
    try:
        chosen = chosen_cluster(cluster)
    except ParamsError as error:
        found.append(Finding("cluster", "missing", " ".join(str(error).split())))
    except Exception as error:  # noqa: BLE001 (as in _guarded)
        found.append(_unchecked("cluster", error))
    checks = _checks(paths, chosen.mlflow if chosen else None)
    if chosen is not None:
        checks["slurm"] = lambda: slurm_findings(chosen, runs, store)
    for what, check in checks.items():
        found += _guarded(what, check)
    return found


def _checks(paths: CampaignPaths, mlflow: str | None) -> dict[str, Check]:
    return {
        "python": _python,
        "packages": _packages,
        "runs": lambda: disk_findings("runs", paths.runs),
        "store": lambda: disk_findings("store", paths.store),
        "git": lambda: git_findings(Path.cwd()),
        "dvc": lambda: dvc_findings(Path.cwd()),
        "mlflow": lambda: _mlflow(paths, mlflow),
        "prefect": _prefect,
        "telemetry": _telemetry,
        "secrets": _secrets,
        "browser": _browser,
    }


def _guarded(what: str, check: Check) -> Iterator[Finding]:
    """Yield the findings of a check, up to its exception: the machine may be broken in any way."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 (a check that fails is what the command is for)
        yield _unchecked(what, error)


def _unchecked(what: str, error: Exception) -> Finding:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Finding(what, "warning", f"could not be checked: {reason}")


def _python() -> Iterator[Finding]:
    found = sys.version_info[:2]
    text = f"{platform.python_version()} at {sys.executable}"
    if found < (3, 11):
        yield Finding("python", "missing", f"{text}; 3.11 or newer is needed")
    else:
        yield Finding("python", "ok" if found == (3, 11) else "warning", f"{text}; tested on 3.11")


def _packages() -> Iterator[Finding]:
    """Compare installed versions with the lock file, where there is one."""
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


def _mlflow(paths: CampaignPaths, chosen: str | None) -> Iterator[Finding]:
    uri = chosen or MLFLOW_SERVER or f"sqlite:///{paths.mlflow_database}"
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
            deleted = "select 1 from experiments where name = ? and lifecycle_stage = 'deleted'"
            is_deleted = database.execute(deleted, (EXPERIMENT,)).fetchone() is not None
    except sqlite3.Error as error:
        text = f"{file}: {error}; move it away; `afd sync` fills a new one from the store"
        yield Finding("mlflow", "warning", text)
        return
    if is_deleted:
        text = f"{file}: experiment {EXPERIMENT} is deleted; `afd sync` or a campaign restores it"
        yield Finding("mlflow", "warning", text)
        return
    yield Finding("mlflow", "ok", f"{file}: {num_runs} runs")


def _mlflow_server(uri: str) -> Finding:
    address = without_password(uri)
    if not uri.startswith("http"):
        return Finding("mlflow", "ok", address)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{uri.rstrip('/')}/version", timeout=5) as response:
            theirs = response.read(100).decode(errors="replace")
    except (OSError, ValueError) as error:
        text = (
            f"{address} does not answer ({error}): campaigns run without it and "
            "`afd sync` records them later; start it, or "
            "change `mlflow` in the cluster's params (or MLFLOW_TRACKING_URI)"
        )
        return Finding("mlflow", "warning", text)
    fits = theirs.split(".")[0] == version("mlflow").split(".")[0]
    text = f"{address} is MLflow {theirs}, {version('mlflow')} here"
    return Finding("mlflow", "ok" if fits else "warning", text)


def _telemetry() -> Iterator[Finding]:
    """Yield the telemetry that the user's environment turns on again."""
    switched = [name for name in TELEMETRY if os.environ.get(name) != DEFAULTS[name]]
    if switched:
        text = f"{', '.join(switched)} changed by your environment: unset it to stay quiet"
        yield Finding("telemetry", "warning", text)
    else:
        yield Finding("telemetry", "ok", "off: nothing phones home")


def _secrets() -> Iterator[Finding]:
    """Search params files for pasted keys: params go into manifests and repositories."""
    found = [
        f"{file}: {field}"
        for file in sorted(Path("params").rglob("*.yaml"))
        for field in secret_fields(file)
    ]
    if found:
        text = f"{', '.join(found)} look like secrets: write the NAME of a variable, change the key"
        yield Finding("secrets", "missing", text)
    else:
        yield Finding("secrets", "ok", "none in params/")


def _prefect() -> Iterator[Finding]:
    api = configured_api()
    if api is None:
        text = f"prefect {version('prefect')}; a campaign starts its own server"
        yield Finding("prefect", "ok", text)
    elif (found := trouble(api)) is None:
        yield Finding("prefect", "ok", f"the server at {api} answers and its version fits")
    else:
        text = f"the server at {api} {found}; campaigns run without it meanwhile"
        yield Finding("prefect", "warning", text)


def _browser() -> Iterator[Finding]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        yield Finding("browser", "warning", "no Chromium: the tests that open pages will skip")
    else:
        yield Finding("browser", "ok", found)


def doctor_document(findings: Sequence[Finding]) -> Document:
    """Return `afd doctor --json`."""
    return {
        "findings": [
            {"what": one.what, "verdict": one.verdict, "text": one.text} for one in findings
        ],
        "is_ready": not _lacks(findings),
    }
