"""A second Ctrl-C: leave at once; another process ends the jobs and tells MLflow and Prefect."""

import os
import subprocess
import sys
from collections.abc import Iterator

from flows.command_text import command
from flows.prefect_runs.services import using
from flows.session import open_sessions


def what_stops() -> Iterator[str]:
    """Mark each campaign of this process as interrupted; yield the text of a first Ctrl-C."""
    for session in open_sessions():
        session.is_interrupted = True
        site = session.site
        goes_on = command("resume", session.name, runs=site.folder.parent)
        jobs = "its jobs too"
        if site.cluster.executor == "slurm":
            jobs = (
                "its jobs cancelled; one on a node that SLURM has lost sees it on the shared disk "
                "and publishes nothing more"
            )
        yield (
            f"stopped, {jobs}: everything finished is kept, and checkpoints\n"
            f"  {goes_on}    goes on\n"
        )


def abandon() -> None:
    """Start the reconciliation of this process's campaigns; the caller ends with its next call.

    The helper takes the campaign's lock when this process has gone, and keeps Prefect's server.
    """
    for session in open_sessions():
        folder, store = session.site.folder, session.site.store.root
        log = folder / "cancel.log"
        goes_on = command("resume", session.name, runs=folder.parent)
        arguments = [session.name, str(folder.parent), str(store), "cancelled"]
        with log.open("ab") as out:
            subprocess.Popen(
                [sys.executable, "-m", "flows.reconcile", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=using(),
            )
        sys.stderr.write(
            f"left {session.name} at once: its jobs are being ended ({log}); finished artifacts "
            f"and checkpoints are kept\n  {goes_on}    goes on\n"
        )
    sys.stderr.flush()
    os._exit(130)
