"""A finished task's clip: downloaded, judged, kept; what is not sound is put aside, never deleted.

A kill between any two steps leaves a row and a file from which the next run goes on.
"""

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from afd.clips.library import DIGITS, add_file, find_clip
from afd.failpoints import failpoint
from afd.harvest.desk import Desk
from afd.harvest.download import (
    BrokenDownloadError,
    Downloaded,
    ExpiredUrlError,
    ForbiddenUrlError,
    UnsafeDownloadError,
)
from afd.harvest.pace import MAX_PAUSE_S, backoff_s
from afd.harvest.provenance import by_policy, provenance
from afd.harvest.rows import Row
from afd.harvest.submitting import MAX_IN_A_ROW
from afd.harvest.watching import look
from afd.teachers import remote
from afd.teachers.remote import Progress, State

# What a finished task may turn into for good. Only these end a paid order without its clip.
OVER: tuple[State, ...] = ("expired", "failed", "cancelled", "refused_input", "refused_output")
MAX_DOWNLOADS = 6  # tries of one delivery in one run; the order stays succeeded for the next


async def deliver(desk: Desk, row: Row, progress: Progress | None) -> Row:
    """A finished task's clip into the vault or into quarantine; the row says which.

    `progress` is what the poll showed, None where its URL is not known any more.
    """
    if row.state == "downloaded" and not _file(desk, row).exists():
        if (
            await asyncio.to_thread(find_clip, desk.store, row.key) is not None
        ):  # killed between keeping it and saying so
            return await desk.move(row, "verified", reason=None)
        row = await desk.move(row, "succeeded")
    if row.state == "succeeded":
        file = await asyncio.to_thread(_fetched, desk.incoming, row.key)
        if file is None:
            row = await _download(desk, row, progress)
        else:  # its URL may be over by now
            row = await desk.move(row, "downloaded", facts=_with(row, file))
        failpoint("harvest.downloaded")
    return await _judge(desk, row) if row.state == "downloaded" else row


async def _judge(desk: Desk, row: Row) -> Row:
    """Keep what is sound and as it was asked for; put aside the rest, with its reason."""
    file = _file(desk, row)
    # What this very order asked for: an earlier campaign's may be another than this one's.
    asked = await desk.clerk(lambda ledger: ledger.asked(row.asked))
    verdict, told = await desk.judge(file), json.loads(row.facts or "{}")
    verdict = by_policy(desk.teacher, asked, replace(verdict, facts=told | verdict.facts))
    about = provenance(desk.teacher, asked, row, verdict)
    facts = json.dumps(verdict.facts)
    if verdict.problem is not None:
        await asyncio.to_thread(desk.put_aside, file, verdict.problem, about)
        return await _quarantined(desk, row, verdict.problem, facts=facts)
    await asyncio.to_thread(add_file, desk.store, row.key, file, about)
    desk.in_a_row.quarantined = 0
    failpoint("harvest.kept")
    row = await desk.move(row, "verified", reason=None, facts=facts)
    failpoint("harvest.verified")
    return row


async def _quarantined(desk: Desk, row: Row, problem: str, **told: Any) -> Row:
    """Paid and of no use; where it is one after another, no more are ordered."""
    desk.in_a_row.quarantined += 1
    if desk.in_a_row.quarantined >= MAX_IN_A_ROW["quarantined"]:
        number = desk.in_a_row.quarantined
        desk.floor.stop("quarantined", f"the last {number} videos were put aside: {problem}")
    return await desk.move(row, "quarantined", reason=problem, **told)


def _file(desk: Desk, row: Row) -> Path:
    """Where the delivery of a downloaded order waits."""
    digest = json.loads(row.facts or "{}").get("sha256", "")
    return desk.incoming / f"{row.key}.{digest[:DIGITS]}.mp4"


def _fetched(folder: Path, key: str) -> Downloaded | None:
    """A whole delivery that the ledger does not know of: killed, or a full disk, in between."""
    for path in folder.glob(f"{key}.*.mp4"):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.stem == f"{key}.{digest[:DIGITS]}":
            return Downloaded(path, digest, path.stat().st_size)
    return None


async def _download(desk: Desk, row: Row, progress: Progress | None) -> Row:
    """The row, downloaded; or as it is, where the delivery is left for another run; or an end."""
    was_repolled = False
    for tries in range(1, MAX_DOWNLOADS + 1):
        if progress is None or not progress.videos:
            progress = await look(desk, row)
            if not progress.videos:
                return await _not_shown(desk, row, progress)
        try:
            file = await desk.fetch(progress.videos[0], row.key)
        except ExpiredUrlError as error:
            if was_repolled:
                return await desk.move(row, "expired_unrecoverable", reason=str(error))
            was_repolled, progress = True, None
        except remote.UnauthorisedError as error:
            desk.floor.stop("unauthorised", error.text, hard=True)
            await desk.floor.sleep(0.0)  # ends here
        except ForbiddenUrlError as error:
            return await _forbidden(desk, row, str(error))
        except UnsafeDownloadError as error:
            return await _quarantined(desk, row, str(error))
        except BrokenDownloadError as error:
            seconds = min(max(backoff_s(tries), error.retry_after_s or 0.0), MAX_PAUSE_S)
            desk.floor.say(f"download: {error}; again in {seconds:.0f} s")
            await desk.floor.sleep(seconds)
        else:
            desk.in_a_row.forbidden = 0
            failpoint("harvest.fetched")
            return await desk.move(row, "downloaded", facts=_with(row, file))
    desk.floor.say(f"order {row.key[:12]}: download failed {MAX_DOWNLOADS} times, kept for later")
    return row


async def _not_shown(desk: Desk, row: Row, progress: Progress) -> Row:
    """Paid, and shown no more: over where the vendor says so, else kept for another run.

    Another key or address may not know the task.
    """
    if progress.state in OVER:
        told = f"the vendor shows no video any more (says {progress.vendor_state})"
        return await desk.move(row, "expired_unrecoverable", reason=told)
    told = (
        f"finished and paid, but the vendor now says {progress.vendor_state}: every run asks again;"
        f" if it is lost for good, `afd harvest resolve {row.key[:12]} --lost`"
    )
    desk.floor.say(told)
    return await desk.move(row, "succeeded", reason=told)


async def _forbidden(desk: Desk, row: Row, told: str) -> Row:
    """Paid, and finished at a host that params do not name: kept for a run that may go there."""
    desk.in_a_row.forbidden += 1
    if desk.in_a_row.forbidden >= MAX_IN_A_ROW["forbidden_host"]:
        desk.floor.stop("forbidden_host", told)
    desk.floor.say(told)
    return await desk.move(row, "succeeded", reason=told)


def _with(row: Row, file: Downloaded) -> str:
    known = {"sha256": file.sha256, "num_bytes": file.num_bytes}
    return json.dumps(json.loads(row.facts or "{}") | known)
