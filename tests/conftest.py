"""Process state that every test needs, and the marks that share the suite out (Makefile)."""

import signal
from pathlib import Path

import pytest

# A shell lets its background jobs ignore Ctrl-C, and children inherit that: tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup has SIGHUP ignored, also in children. A handler is not inherited: they get the default, and
# the suite itself outlives its terminal.
signal.signal(signal.SIGHUP, lambda *_: None)

HERE = Path(__file__).parent
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
        "jobs/test_verdict",
        "prefect_runs/test_reach",
        "test_choices",
        "test_invocation",
        "test_round",
        "test_tasks",
        "test_tuning",
    )
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `integration` by folder, fixture and mark: `make unit` is all that is left."""
    for item in items:
        if starts_something(item):
            item.add_marker("integration")


def starts_something(item: pytest.Item) -> bool:
    file = item.path.relative_to(HERE).as_posix()
    if FIXTURES & set(getattr(item, "fixturenames", ())):
        return True
    if any(item.get_closest_marker(mark) for mark in MARKS):
        return True
    return file.partition("/")[0] in FOLDERS and file not in NOTHING_STARTED
