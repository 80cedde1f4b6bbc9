"""Provenance of a clip: its comparison with the order, and the record beside it."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from afd.clips.requests import TeacherSpec, order_seed
from afd.config import RemoteTeacher
from afd.harvest.budget import MICRO
from afd.harvest.order import OrderRow

FPS_TOLERANCE = 0.01  # 23.976 for 24 is 0.1 %
DURATION_TOLERANCE = 0.1  # or a quarter of a second: vendors round to whole frames and seconds
MIN_DURATION_TOLERANCE_S = 0.25


@dataclass(frozen=True)
class InspectionResult:
    """Result of an inspection: `problem` is None for a sound clip."""

    problem: str | None
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def differences(spec: TeacherSpec, facts: dict[str, Any]) -> list[str]:
    """Return the differences between delivery and order: model, rate, size, duration."""
    found: list[str] = []
    ran = facts.get("ran_model")
    if ran is not None and ran != spec.model and not _is_version_of(ran, spec.model):
        found.append(f"ran the model {ran}, asked {spec.model}")
    fps, duration = facts["fps"], facts["duration_s"]
    if spec.fps is not None and abs(fps - spec.fps) > FPS_TOLERANCE * spec.fps:
        found.append(f"{fps:.4g} fps, asked {spec.fps:.4g}")
    if spec.size is not None and (facts["width"], facts["height"]) != spec.size:
        found.append(f"{facts['width']}x{facts['height']} px, asked {spec.size[0]}x{spec.size[1]}")
    if spec.duration_s is not None:
        allowed = max(MIN_DURATION_TOLERANCE_S, DURATION_TOLERANCE * spec.duration_s)
        if abs(duration - spec.duration_s) > allowed:
            found.append(f"{duration:.3g} s, asked {spec.duration_s:.3g}")
    return found


def _is_version_of(ran: str, model: str) -> bool:
    """Return True if `ran` may be a version of a model that was ordered without one.

    An endpoint of Ark (ep-...) runs a model of another name.
    """
    return model.startswith("ep-") or (":" not in model and ran.partition(":")[0] == model)


def apply_mismatch_policy(
    teacher: RemoteTeacher, spec: TeacherSpec, verdict: InspectionResult
) -> InspectionResult:
    """Accept or reject a sound clip that differs from its order, by `on_mismatch`."""
    if verdict.problem is not None:
        return verdict
    found = differences(spec, verdict.facts)
    facts = verdict.facts | {"differs": found, "policy": teacher.on_mismatch if found else None}
    if found and teacher.on_mismatch == "quarantine":
        return InspectionResult(f"not what was asked: {'; '.join(found)}", facts)
    return InspectionResult(None, facts)


def provenance(
    teacher: RemoteTeacher, spec: TeacherSpec, row: OrderRow, verdict: InspectionResult | None
) -> dict[str, Any]:
    """Return the record of one clip; it holds no API key and no URL of the video."""
    facts = json.loads(row.facts or "{}")
    return {
        "key": row.key,
        "prompt": row.prompt,
        "prompt_id": row.prompt_id,
        "category": row.category,
        "provider": row.provider,
        "model": row.model,
        "host": urlsplit(teacher.access.base_url).hostname,
        "parameters": spec.parameters,
        "asked": {"duration_s": spec.duration_s, "fps": spec.fps, "size": spec.size},
        "sample": row.sample,
        "attempt": row.attempt,
        "seed": order_seed(row.request_id, row.attempt) if spec.seeded else None,
        "returned_seed": row.returned_seed,
        "task_id": row.task_id,
        "created_at": _day(row.submitted_at),
        "ended_at": _day(facts.pop("ended_at", None)),
        "cost_usd": row.spent / MICRO,
        "price": teacher.access.price.model_dump(mode="json", exclude_none=True),
        "training_permitted": teacher.training_permitted,
        "terms": teacher.terms.model_dump(mode="json"),
        **facts,
        **(verdict.facts if verdict else {}),
    }


def _day(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
