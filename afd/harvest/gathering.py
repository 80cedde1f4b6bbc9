"""The clips of one round, whoever the teacher is: what the store has, then what is still missing.

What a round does about prompts without a clip is decided here. Refused, failed, expired, stalled,
quarantined and ambiguous orders are outcomes: the round goes on with the prompts that have clips,
as long as they are at least `min_clip_share` of it, and counts the others by their reason. What a
person can mend (key, credit, budget, disk, connection) stops it, with everything paid kept.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from afd.clips.lookup import FoundClip, find_clips
from afd.clips.requests import ClipRequest, TeacherSpec, distinct, teacher_spec
from afd.config import FolderTeacher, RemoteTeacher
from afd.harvest.desk import Why
from afd.harvest.ledger import Ledger
from afd.harvest.live import Live, Stop
from afd.harvest.money import MICRO
from afd.harvest.run import harvest
from afd.store import Store, StoreError

NEXT: dict[Why, str] = {
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
}


class HarvestPausedError(ValueError):
    """A harvest that cannot finish now: why, what is kept, what to do."""

    def __init__(self, told: str, why: Why | None = None) -> None:
        super().__init__(told)
        self.why = why


@dataclass(frozen=True)
class Gathered:
    """The clips of some wants, by slot; and of the others, how many ended how."""

    answers: Mapping[str, FoundClip]
    ends: Mapping[str, str]  # slot -> how its order ended, of those without a clip
    num_new: int  # that were not in the store before
    cost_usd: float  # of the new ones, and of what was billed without a clip

    @property
    def without_clip(self) -> Counter[str]:
        """How many ended how."""
        return Counter(self.ends.values())


def gather(
    teacher: RemoteTeacher | FolderTeacher,
    store: Store,
    wants: Sequence[ClipRequest],
    on_change: Callable[[Live], None] | None = None,
) -> Gathered:
    """A clip for every want that can have one.

    Raises HarvestPausedError where something stopped it, or too few prompts have a clip.
    """
    asked = teacher_spec(teacher)
    before = find_clips(store, asked, wants)
    missing = [want for want in distinct(wants) if want.slot not in before]
    if not missing:
        return Gathered(before, {}, 0, 0.0)
    if isinstance(teacher, FolderTeacher):
        from afd.harvest.importing import import_folder

        import_folder(store, teacher)
    else:
        done = harvest(teacher, store, missing, on_change=on_change)
        if done.stop is not None:
            raise paused(done.stop, teacher, store, done.live.missing)
    found = find_clips(store, asked, wants)
    ends = _ends(store, asked, [want for want in missing if want.slot not in found])
    counted = Counter(ends.values())
    if counted["verified"]:
        raise missing_clips(store, counted["verified"])
    share = sum(want.slot in found for want in wants) / len(wants)
    least = (teacher if isinstance(teacher, FolderTeacher) else teacher.access).min_clip_share
    if share < least or not found:
        said = ", ".join(f"{number} {state}" for state, number in counted.items())
        raise HarvestPausedError(
            f"{len(found)} of {len(wants)} prompts have a clip, less than the share of {least:g} "
            f"that min_clip_share asks for ({said}); what has one is kept. See `afd harvest "
            "status`, then mend it or lower min_clip_share"
        )
    with Ledger(store.root) as ledger:
        cost = ledger.spent_on(want.slot for want in missing) / MICRO
    return Gathered(found, ends, len(found) - len(before), cost)


def missing_clips(store: Store, number: int) -> StoreError:
    """The error of clips that the ledger calls verified and nobody finds."""
    return StoreError(
        f"{number} clips that were paid and verified are in neither {store.clips} nor a shard: "
        "restore them with `dvc pull` or from a backup. `afd harvest verify` names them, and the "
        "command that orders again what is lost for good"
    )


def paused(
    stop: Stop, teacher: RemoteTeacher, store: Store, num_missing: int
) -> HarvestPausedError:
    """The error of a stop, and of clips that were gone besides."""
    gone = f"\nAlso: {missing_clips(store, num_missing)}" if num_missing else ""
    return HarvestPausedError(explained(stop, teacher) + gone, stop.why)


def explained(stop: Stop, teacher: RemoteTeacher) -> str:
    """A stop for a person: what happened, what is kept, what to do."""
    access = teacher.access
    cure = NEXT[stop.why].format(key=access.key_variable, url=without_user(access.base_url))
    return (
        f"{stop.told}. Every finished clip and every open task is kept in the ledger, nothing is "
        f"paid twice; {cure}, then run the same command again"
    )


def without_user(url: str) -> str:
    """An address without what may be a password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _ends(store: Store, asked: TeacherSpec, wants: Sequence[ClipRequest]) -> dict[str, str]:
    """How the orders of wants without a clip ended, by slot."""
    with Ledger(store.root) as ledger:
        standing = ledger.standing(asked)
    nothing = (0, "absent")
    return {want.slot: str(standing.get(want.slot, nothing)[1]) for want in wants}
