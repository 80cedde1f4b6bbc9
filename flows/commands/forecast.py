"""Forecast of a campaign: its stages in order, and the time that is left."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.store import Store
from flows.baselines import play_round, play_start
from flows.campaign import play_final, play_horizon
from flows.dry_run import DryRunStages
from flows.progress import FinishedStage, RunningStage
from flows.tasks import Pending

# Time gone over time computed: below 1 where stages run side by side, above it for what lies
# between them. Bounded, since one slow start would foretell hours.
OVERHEAD = (0.5, 3.0)


@dataclass(frozen=True)
class Planned:
    """A stage that the campaign will request."""

    request: StageRequest
    round_index: int | None

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the artifact; cached, since every draw of the view reads it."""
        return self.request.output.fingerprint


class Listing(DryRunStages):
    """Recorder of requested stages. An alarm that is not known yet changes nothing."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.planned: list[Planned] = []
        self.round_index: int | None = None

    def make(self, request: StageRequest) -> ArtifactRef:
        self.planned.append(Planned(request, self.round_index))
        return super().make(request)

    def begin(self, request: StageRequest) -> Pending:
        self.planned.append(Planned(request, self.round_index))
        return super().begin(request)


def planned_stages(params: Params, store: Store, last_round: int | None = None) -> list[Planned]:
    """Return the stages of a campaign, or up to one round, in the order of their requests."""
    listing = Listing(store)
    state = play_start(listing, params)
    while not state.is_over(params) and (last_round is None or len(state.rounds) <= last_round):
        listing.round_index = len(state.rounds)
        state = play_round(listing, params, state)
    listing.round_index = None
    if last_round is None:
        play_final(listing, params, state)
        if params.evaluate.horizon is not None:
            play_horizon(listing, params, state)
    return listing.planned


def try_planned_stages(params: Params, store: Store, last_round: int | None) -> list[Planned]:
    """Return the planned stages, or none where the campaign itself will refuse a request."""
    try:
        return planned_stages(params, store, last_round)
    except RefusedError:
        return []


def seconds_left(
    planned: Sequence[Planned],
    done: Sequence[FinishedStage],
    running: Sequence[RunningStage],
    now: float,
    began: float,
) -> float | None:
    """Return the seconds until the last stage ends, from those of finished stages of each kind.

    None while a stage that is left has no finished one of its kind; the report (seconds) excepted.
    `began`: time.monotonic() at the first request of this session.
    """
    seconds = _seconds_by_size(done)
    finished = {one.fingerprint for one in done}
    left = [one.request for one in planned if one.fingerprint not in finished]
    if any(request.stage not in seconds and request.stage != "report" for request in left):
        return None
    ahead = sum(seconds.get(request.stage, 0.0) * _size(request) for request in left)
    for one in running:
        ahead -= min(now - one.started, seconds.get(one.request.stage, 0.0) * _size(one.request))
    computed = sum(one.spent_s for one in done if not one.was_there)
    computed += sum(now - one.started for one in running)
    low, high = OVERHEAD
    overhead = min(high, max(low, (now - began) / computed)) if computed > 0 else 1.0
    return max(0.0, ahead * overhead)


def _seconds_by_size(done: Sequence[FinishedStage]) -> dict[str, float]:
    """Return stage -> seconds for a unit of its size."""
    spent: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for one in done:
        stage = one.request.stage
        spent[stage] = spent.get(stage, 0.0) + one.spent_s
        sizes[stage] = sizes.get(stage, 0.0) + _size(one.request)
    return {stage: spent[stage] / sizes[stage] for stage in spent}


def _size(request: StageRequest) -> float:
    """Return the work of a stage relative to its kind: an evaluation's is that of its clips."""
    if request.stage != "evaluate":
        return 1.0
    params = request.params
    return float(params["num_prompts"] * len(params["noise_seeds"]) * params["num_frames"])
