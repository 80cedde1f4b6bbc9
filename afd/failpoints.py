"""Failpoints: named places where a test may kill the process by SIGKILL, without cleanup.

`AFD_FAILPOINT=<name>:<n>` kills this process (or a child forked from it) when it passes the name
the n-th time; `<name>:<n>:SIGSTOP` or another signal sends that signal: a process that hangs, or
that gets a stop request there. Without the variable a failpoint costs one dictionary lookup.
"""

import os
import signal
from collections import Counter
from typing import Literal, get_args

FailpointName = Literal[
    "store.file_synced",
    "store.before_manifest",
    "store.before_publish",
    "store.after_publish",
    "checkpoint.before_rename",
    "checkpoint.after_rename",
    "batches.passed",
    "harvest.clip_paid",
    "harvest.before_post",
    "harvest.after_post",
    "harvest.submitted",
    "harvest.settled",
    "harvest.fetched",
    "harvest.downloaded",
    "harvest.before_keep",
    "harvest.kept",
    "harvest.verified",
    "warmstart.step",
    "critic.step",
    "fit.step",
    "update.step",
    "flow.run_begun",
    "flow.request_written",
    "flow.job_submitted",
    "flow.stage_done",
    "flow.before_versions",
    "flow.after_versions",
    "flow.before_lineage",
    "flow.after_lineage",
]
FAILPOINTS: tuple[str, ...] = get_args(FailpointName)
_passed: Counter[str] = Counter()


def failpoint(name: FailpointName) -> None:
    """Kill the process here if AFD_FAILPOINT names this place."""
    wanted = os.environ.get("AFD_FAILPOINT")
    if not wanted:
        return
    target, count, sent = (*wanted.split(":"), "", "")[:3]
    if target not in FAILPOINTS:
        known = ", ".join(FAILPOINTS)
        raise ValueError(f"AFD_FAILPOINT={wanted}: no such failpoint; one of {known}")
    if target != name:
        return
    _passed[name] += 1
    if _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.Signals[sent or "SIGKILL"])
