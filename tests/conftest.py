"""Process state that every test needs, and the marks that share the suite out (Makefile)."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

# A shell lets its background jobs ignore Ctrl-C, and children inherit that: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup has SIGHUP ignored, also in children. A handler is not inherited: they get the default, and
# the suite itself outlives its terminal.
signal.signal(signal.SIGHUP, lambda *_: None)

HERE = Path(__file__).parent
# Of a test that starts something: seconds on a quiet machine, minutes on a loaded one.
PATIENCE_S = 900
# Folders whose tests start services, SLURM or programs of other environments.
FOLDERS = ("docs", "evaluators", "flows", "slurm")
# Fixtures and marks that start a service, a browser, SLURM or a campaign, in any folder.
FIXTURES = {"slurm", "forge", "browser", "page"}
MARKS = ("campaign", "browser")
# Files below FOLDERS that start nothing: pure functions, files on disk, stand-in objects.
NOTHING_STARTED = {
    f"flows/{name}.py"
    for name in (
        "commands/test_doctor_disk",
        "commands/test_harvest_progress",
        "commands/test_help",
        "jobs/test_scheduler",
        "jobs/test_slurm",
        "jobs/test_diagnosis",
        "jobs/test_pace",
        "prefect_runs/test_reach",
        "test_inputs",
        "test_command_text",
        "test_round",
        "test_tasks",
        "test_tuning",
    )
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Workers (Makefile) take files in this order: the longest chains begin first, so that all end
# together. SLURM's daemons mostly wait, README's commands are one test, campaigns compute.
FOLDERS_FIRST = ("slurm", "docs", "flows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `integration` by folder, fixture and mark: `make unit` is all that is left."""
    for item in items:
        if starts_something(item):
            item.add_marker("integration")
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(PATIENCE_S))
    items.sort(key=place_in_line)


def place_in_line(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0]
    return FOLDERS_FIRST.index(folder) if folder in FOLDERS_FIRST else len(FOLDERS_FIRST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadFileScheduling":
    """Keep a file in one worker, for its fixtures, and all of SLURM, for its cluster.

    xdist's own groups are lost under pytest 9.2, whose node ids cannot be changed.
    """
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "slurm" if "/slurm/" in nodeid else super()._split_scope(nodeid)

    return Files(config, log)


def starts_something(item: pytest.Item) -> bool:
    file = item.path.relative_to(HERE).as_posix()
    if FIXTURES & set(getattr(item, "fixturenames", ())):
        return True
    if any(item.get_closest_marker(mark) for mark in MARKS):
        return True
    return file.partition("/")[0] in FOLDERS and file not in NOTHING_STARTED


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium; Playwright runs once at a time in a process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=found, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's script, to be evaluated in a page before `axe.run()`."""
    package = pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    return Path(package.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
