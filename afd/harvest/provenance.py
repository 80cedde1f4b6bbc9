"""What is known about one clip: judged against what was asked, and written down beside it."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from afd.clips.requests import TeacherSpec, order_seed
from afd.config import RemoteTeacher
from afd.harvest.money import MICRO
from afd.harvest.rows import Row

FPS_TOLERANCE = 0.01  # 23.976 asked as 24 is 0.1 %
DURATION_TOLERANCE = 0.1  # or a quarter of a second: vendors round to whole frames and seconds
MIN_DURATION_TOLERANCE_S = 0.25


@dataclass(frozen=True)
class Verdict:
    """A judged file: `problem` is None for a sound clip, else why it is put aside."""

    problem: str | None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def differences(asked: TeacherSpec, facts: dict[str, Any]) -> list[str]:
    """What the vendor delivered otherwise than it was asked: rate, size, length, model."""
    found: list[str] = []
    ran = facts.get("ran_model")
    if ran is not None and ran != asked.model and not _is_version_of(ran, asked.model):
        found.append(f"ran the model {ran}, asked {asked.model}")
    fps, duration = facts["fps"], facts["duration_s"]
    if asked.fps is not None and abs(fps - asked.fps) > FPS_TOLERANCE * asked.fps:
        found.append(f"{fps:.4g} fps, asked {asked.fps:.4g}")
    if asked.size is not None and (facts["width"], facts["height"]) != asked.size:
        found.append(
            f"{facts['width']}x{facts['height']} px, asked {asked.size[0]}x{asked.size[1]}"
        )
    if asked.duration_s is not None:
        allowed = max(MIN_DURATION_TOLERANCE_S, DURATION_TOLERANCE * asked.duration_s)
        if abs(duration - asked.duration_s) > allowed:
            found.append(f"{duration:.3g} s, asked {asked.duration_s:.3g}")
    return found


def _is_version_of(ran: str, model: str) -> bool:
    """Whether `ran` is what the vendor took for a model that was ordered without a version."""
    return ":" not in model and ran.partition(":")[0] == model


def by_policy(teacher: RemoteTeacher, asked: TeacherSpec, verdict: Verdict) -> Verdict:
    """A sound clip that is not what was asked: taken or put aside, as `on_mismatch` says."""
    if verdict.problem is not None:
        return verdict
    found = differences(asked, verdict.facts)
    facts = verdict.facts | {"differs": found, "policy": teacher.on_mismatch if found else None}
    if found and teacher.on_mismatch == "quarantine":
        return Verdict(f"not what was asked: {'; '.join(found)}", facts)
    return Verdict(None, facts)


def provenance(
    teacher: RemoteTeacher, asked: TeacherSpec, row: Row, verdict: Verdict | None
) -> dict[str, Any]:
    """Everything about one clip that its file does not say; no key and no URL of it is in here."""
    told = json.loads(row.facts or "{}")
    return {
        "key": row.key,
        "prompt": row.prompt,
        "prompt_id": row.prompt_id,
        "category": row.category,
        "provider": row.provider,
        "model": row.model,
        "host": urlsplit(teacher.access.base_url).hostname,
        "parameters": asked.parameters,
        "asked": {"duration_s": asked.duration_s, "fps": asked.fps, "size": asked.size},
        "sample": row.sample,
        "attempt": row.attempt,
        "seed": order_seed(row.slot, row.attempt) if asked.seeded else None,
        "returned_seed": row.returned_seed,
        "task_id": row.task_id,
        "created_at": _day(row.submitted_at),
        "ended_at": _day(told.pop("ended_at", None)),
        "cost_usd": row.spent / MICRO,
        "price": teacher.access.price.model_dump(mode="json", exclude_none=True),
        "training_permitted": teacher.training_permitted,
        "terms": teacher.terms.model_dump(mode="json"),
        **told,
        **(verdict.facts if verdict else {}),
    }


def _day(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
