"""Clips of one round, for any teacher: those in the store, then orders for the missing ones.

This module decides about prompts without a clip. Refused, failed, expired, stalled,
quarantined and ambiguous orders are outcomes: the round goes on with the prompts that have clips,
as long as they are at least `min_clip_share` of it, and counts the others by their reason. Faults
that a person can mend (key, credit, budget, disk, connection) stop it; all paid clips are stored.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from afd.clips.lookup import FoundClip, find_clips
from afd.clips.requests import ClipRequest, TeacherSpec, distinct, teacher_spec
from afd.config import FolderTeacher, RemoteTeacher
from afd.errors import InputError
from afd.harvest.budget import MICRO
from afd.harvest.context import StopReason
from afd.harvest.ledger import Ledger
from afd.harvest.progress import HarvestProgress, Stop
from afd.harvest.run import harvest
from afd.store import Store, StoreError

# Providers that drop finished films soon: a stopped harvest loses what it has paid.
SHORT_LIVED = {
    "fal": "; soon: fal drops a film after 6 minutes (one below 10 KB after an hour)",
    "replicate": "; soon: Replicate drops a film after an hour",
}
NEXT: dict[StopReason, str] = {
    "unauthorised": "put a valid key into the environment variable {key}",
    "out_of_credit": "add credit to the account at the provider",
    "budget": "raise teacher.access.budget_usd (it is no part of a clip's identity)",
    "no_connection": "look at the network, at {url} and at the provider's status page",
    "busy_vendor": "wait, or lower teacher.access.in_flight and requests_per_minute",
    "lost_replies": "replies of {url} were lost: look at the network, then at `afd harvest status`",
    "rejected": "correct teacher.model and teacher.parameters: the provider rejects every order",
    "forbidden_host": "if the host is the provider's, add it to teacher.access.video_hosts",
    "quarantined": "look at store/quarantine, then correct teacher.size, fps, duration_s, "
    "parameters or on_mismatch",
    "disk": "free some space",
    "interrupted": "nothing to mend",
    "failure": "report it",
    "asked_to_wait": "wait until then",
}


class HarvestPausedError(InputError):
    """A harvest that cannot finish now; the text names reason and cure."""

    def __init__(self, text: str, reason: StopReason | None = None) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Gathered:
    """Clips by request_id, and the end states of the requests without one."""

    answers: Mapping[str, FoundClip]
    ends: Mapping[str, str]  # request_id -> state of its order, of requests without a clip
    num_new: int  # that were not in the store before
    cost_usd: float  # of the new ones, and of what was billed without a clip

    @property
    def without_clip(self) -> Counter[str]:
        """Number of requests without a clip, by state."""
        return Counter(self.ends.values())


def gather(
    teacher: RemoteTeacher | FolderTeacher,
    store: Store,
    requests: Sequence[ClipRequest],
    on_change: Callable[[HarvestProgress], None] | None = None,
) -> Gathered:
    """Return a clip for each request that can have one; order what is missing.

    Raises HarvestPausedError at a stop, or if too few prompts have a clip.
    """
    spec = teacher_spec(teacher)
    before = find_clips(store, spec, requests)
    missing = [request for request in distinct(requests) if request.request_id not in before]
    if not missing:
        return Gathered(before, {}, 0, 0.0)
    if isinstance(teacher, FolderTeacher):
        from afd.harvest.folder.importing import import_folder

        import_folder(store, teacher)
    else:
        done = harvest(teacher, store, missing, on_change=on_change)
        if done.stop is not None:
            raise paused_error(done.stop, teacher, store, done.live.missing)
    found = find_clips(store, spec, requests)
    ends = _ends(store, spec, [request for request in missing if request.request_id not in found])
    counted = Counter(ends.values())
    if counted["verified"]:
        raise missing_clips_error(store, counted["verified"])
    share = sum(request.request_id in found for request in requests) / len(requests)
    least = (teacher if isinstance(teacher, FolderTeacher) else teacher.access).min_clip_share
    if share < least or not found:
        ends_text = ", ".join(f"{number} {state}" for state, number in counted.items())
        raise HarvestPausedError(
            f"{len(found)} of {len(requests)} prompts have a clip, less than the share of "
            f"{least:g} that min_clip_share asks for ({ends_text}); what has one is kept. See "
            "`afd harvest status`, then mend it or lower min_clip_share"
        )
    with Ledger(store.root) as ledger:
        cost = ledger.spent_on(request.request_id for request in missing) / MICRO
    return Gathered(found, ends, len(found) - len(before), cost)


def missing_clips_error(store: Store, number: int) -> StoreError:
    """Return the error for clips in the state verified that the store does not have."""
    return StoreError(
        f"{number} clips that were paid and verified are in neither {store.clips} nor a shard: "
        "restore them with `dvc pull` or from a backup. `afd harvest verify` names them, and the "
        "command that orders again what is lost for good"
    )


def paused_error(
    stop: Stop, teacher: RemoteTeacher, store: Store, num_missing: int
) -> HarvestPausedError:
    """Return the error of a stop, with the clips that are missing besides."""
    gone = f"\nAlso: {missing_clips_error(store, num_missing)}" if num_missing else ""
    return HarvestPausedError(stop_message(stop, teacher) + gone, stop.reason)


def stop_message(stop: Stop, teacher: RemoteTeacher) -> str:
    """Return the text of a stop: event, what is kept, cure."""
    access = teacher.access
    cure = NEXT[stop.reason].format(key=access.key_variable, url=without_user(access.base_url))
    return (
        f"{stop.text}. Every finished clip and every open task is kept in the ledger, nothing is "
        f"paid twice; {cure}, then run the same command again"
        f"{SHORT_LIVED.get(teacher.provider, '')}"
    )


def without_user(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _ends(store: Store, spec: TeacherSpec, requests: Sequence[ClipRequest]) -> dict[str, str]:
    """Return request_id -> state of the last order, of requests without a clip."""
    with Ledger(store.root) as ledger:
        last_attempts = ledger.last_attempts(spec)
    nothing = (0, "absent")
    return {
        request.request_id: str(last_attempts.get(request.request_id, nothing)[1])
        for request in requests
    }
