"""Delivery of a finished task: download, inspection, then library or quarantine.

Nothing is deleted. A kill between two steps leaves a row and a file; the next run goes on from
them.
"""

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from afd.clips.library import DIGITS, add_file, find_clip
from afd.failpoints import failpoint
from afd.harvest import budget
from afd.harvest.context import RunContext
from afd.harvest.download import (
    BrokenDownloadError,
    Downloaded,
    ExpiredUrlError,
    ForbiddenUrlError,
    UnsafeDownloadError,
)
from afd.harvest.order import OrderRow
from afd.harvest.pace import MAX_PAUSE_S, backoff_s
from afd.harvest.poll import poll_once
from afd.harvest.provenance import apply_mismatch_policy, provenance
from afd.harvest.submit import MAX_IN_A_ROW
from afd.teachers.vendors import protocol
from afd.teachers.vendors.protocol import Progress, State

# Final states that a poll may show for a finished task. Only these end a paid order without a clip.
OVER: tuple[State, ...] = ("expired", "failed", "cancelled", "refused_input", "refused_output")
MAX_DOWNLOADS = 6  # tries of one delivery in one run; the order stays succeeded for the next


async def deliver(context: RunContext, row: OrderRow, progress: Progress | None) -> OrderRow:
    """Move a finished task's clip into the library or the quarantine; return the row.

    `progress` is the result of the last poll; None if its URL is no longer known.
    """
    if row.state == "downloaded" and not _file(context, row).exists():
        # A kill after the move into the library and before the ledger's commit.
        if await asyncio.to_thread(find_clip, context.store, row.key) is not None:
            return await context.move(row, "verified", reason=None)
        row = await context.move(row, "succeeded")
    if row.state == "succeeded":
        file = await asyncio.to_thread(_fetched, context.incoming, row.key)
        if file is None:
            row = await _download(context, row, progress)
        else:  # its URL may have expired
            row = await context.move(row, "downloaded", facts=_with(row, file))
        failpoint("harvest.downloaded")
    return await _inspect_and_store(context, row) if row.state == "downloaded" else row


async def _inspect_and_store(context: RunContext, row: OrderRow) -> OrderRow:
    """Store a sound clip that fits its order; quarantine any other with its reason."""
    file = _file(context, row)
    # The order's own spec: an earlier campaign may have had another one.
    spec = await context.in_ledger(lambda ledger: ledger.spec(row.spec_id))
    verdict, known = await context.inspect(file), json.loads(row.facts or "{}")
    verdict = apply_mismatch_policy(
        context.teacher, spec, replace(verdict, facts=known | verdict.facts)
    )
    row = await _book_length(context, row, verdict.facts)
    about = provenance(context.teacher, spec, row, verdict)
    facts = json.dumps(verdict.facts)
    if verdict.problem is not None:
        described = await asyncio.to_thread(context.put_aside, file, verdict.problem, about)
        reason = f"{verdict.problem} ({described})"
        return await _quarantined(context, row, reason, facts=facts)
    await asyncio.to_thread(add_file, context.store, row.key, file, about)
    context.in_a_row.quarantined = 0
    failpoint("harvest.kept")
    row = await context.move(row, "verified", reason=None, facts=facts)
    failpoint("harvest.verified")
    return row


async def _book_length(context: RunContext, row: OrderRow, facts: dict[str, Any]) -> OrderRow:
    """Write the cost of a film that is longer than ordered, if the vendor reports no usage."""
    length, usage = facts.get("duration_s"), facts.get("usage")
    if usage is not None or not isinstance(length, int | float):
        return row
    spent = budget.cost_of_film(context.teacher.access.price, row.spent, length)
    return row if spent == row.spent else await context.move(row, "downloaded", spent=spent)


async def _quarantined(
    context: RunContext, row: OrderRow, problem: str, **columns: Any
) -> OrderRow:
    """Mark a paid, unusable delivery; stop new orders after several in a row."""
    context.in_a_row.quarantined += 1
    if context.in_a_row.quarantined >= MAX_IN_A_ROW["quarantined"]:
        number = context.in_a_row.quarantined
        context.engine.stop("quarantined", f"the last {number} videos were put aside: {problem}")
    return await context.move(row, "quarantined", reason=problem, **columns)


def _file(context: RunContext, row: OrderRow) -> Path:
    """Return the path of a downloaded order's file before its inspection."""
    digest = json.loads(row.facts or "{}").get("sha256", "")
    return context.incoming / f"{row.key}.{digest[:DIGITS]}.mp4"


def _fetched(folder: Path, key: str) -> Downloaded | None:
    """Return a complete file that the ledger lacks after a kill or a full disk, or None."""
    for path in folder.glob(f"{key}.*.mp4"):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.stem == f"{key}.{digest[:DIGITS]}":
            return Downloaded(path, digest, path.stat().st_size)
    return None


async def _download(context: RunContext, row: OrderRow, progress: Progress | None) -> OrderRow:
    """Download the video; return the row, which keeps its state if another run must retry."""
    was_repolled = False
    for tries in range(1, MAX_DOWNLOADS + 1):
        if progress is None or not progress.videos:
            progress = await poll_once(context, row)
            if not progress.videos:
                return await _video_gone(context, row, progress)
        try:
            file = await context.fetch(progress.videos[0], row.key)
        except ExpiredUrlError as error:
            if was_repolled:
                return await context.move(row, "expired_unrecoverable", reason=str(error))
            was_repolled, progress = True, None
        except protocol.UnauthorisedError as error:
            context.engine.stop("unauthorised", error.text, hard=True)
            await context.engine.sleep(0.0)  # ends here
        except ForbiddenUrlError as error:
            return await _forbidden(context, row, str(error))
        except UnsafeDownloadError as error:
            return await _quarantined(context, row, str(error))
        except BrokenDownloadError as error:
            seconds = min(max(backoff_s(tries), error.retry_after_s or 0.0), MAX_PAUSE_S)
            context.engine.report(f"download: {error}; again in {seconds:.0f} s")
            await context.engine.sleep(seconds)
        else:
            context.in_a_row.forbidden = 0
            failpoint("harvest.fetched")
            return await context.move(row, "downloaded", facts=_with(row, file))
    context.engine.report(
        f"order {row.key[:12]}: download failed {MAX_DOWNLOADS} times, kept for later"
    )
    return row


async def _video_gone(context: RunContext, row: OrderRow, progress: Progress) -> OrderRow:
    """Handle a paid task without a video URL: an end if the vendor reports one, else retry.

    With another key or address the vendor may not find the task.
    """
    if progress.state in OVER:
        reason = f"the vendor shows no video any more (says {progress.vendor_state})"
        return await context.move(row, "expired_unrecoverable", reason=reason)
    reason = (
        f"finished and paid, but the vendor now says {progress.vendor_state}: every run asks again;"
        f" if it is lost for good, `afd harvest resolve {row.key[:12]} --lost`"
    )
    context.engine.report(reason)
    return await context.move(row, "succeeded", reason=reason)


async def _forbidden(context: RunContext, row: OrderRow, reason: str) -> OrderRow:
    """Handle a video at a host that params do not list: a run that lists it can fetch it."""
    context.in_a_row.forbidden += 1
    if context.in_a_row.forbidden >= MAX_IN_A_ROW["forbidden_host"]:
        context.engine.stop("forbidden_host", reason)
    context.engine.report(reason)
    return await context.move(row, "succeeded", reason=reason)


def _with(row: OrderRow, file: Downloaded) -> str:
    known = {"sha256": file.sha256, "num_bytes": file.num_bytes}
    return json.dumps(json.loads(row.facts or "{}") | known)
