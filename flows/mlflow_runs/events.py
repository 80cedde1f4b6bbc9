"""What happened in a campaign, as data: what lineage writes to MLflow now, or spools for later."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from afd.config import Frozen
from afd.stages.request import StageRequest

CampaignStatus = Literal["finished", "paused", "failed", "killed"]  # paused: rounds are left


class CampaignStarted(Frozen):
    kind: Literal["campaign_started"] = "campaign_started"
    at_ms: int
    params: dict[str, Any]


class CampaignFinished(Frozen):
    kind: Literal["campaign_finished"] = "campaign_finished"
    at_ms: int
    status: CampaignStatus


class RoundStarted(Frozen):
    kind: Literal["round_started"] = "round_started"
    at_ms: int
    round_index: int


class RoundFinished(Frozen):
    kind: Literal["round_finished"] = "round_finished"
    at_ms: int
    round_index: int
    decision: dict[str, Any] | None = None  # of its alarms; None: told by an earlier version


class StageStarted(Frozen):
    kind: Literal["stage_started"] = "stage_started"
    at_ms: int
    round_index: int | None
    request: StageRequest


class StageDone(Frozen):
    """`digests`: fingerprint -> DVC's md5, of the artifact and of what it was made from."""

    kind: Literal["stage_done"] = "stage_done"
    at_ms: int
    round_index: int | None
    request: StageRequest
    artifact: str  # its folder
    digests: Mapping[str, str]


class StageFailed(Frozen):
    kind: Literal["stage_failed"] = "stage_failed"
    at_ms: int
    round_index: int | None
    request: StageRequest
    outcome: str
    log_tail: str


class Swept(Frozen):
    """Runs that a kill left running are to be ended."""

    kind: Literal["swept"] = "swept"
    at_ms: int


Event = (
    CampaignStarted
    | CampaignFinished
    | RoundStarted
    | RoundFinished
    | StageStarted
    | StageDone
    | StageFailed
    | Swept
)
_ANY: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def parse(line: bytes | str) -> Event:
    """One line of the spool; raises ValidationError."""
    return _ANY.validate_json(line)
