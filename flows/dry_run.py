"""States of a campaign without computing: every artifact is named by its request."""

from collections.abc import Mapping

from afd.artifacts import ArtifactRef
from afd.config import Params
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.store import Store
from flows import alarm_log
from flows.baselines import play_round, play_start
from flows.state import CampaignState
from flows.tasks import Pending, Ready


class DryRunStages:
    """Stages that name their artifacts without making them: a request has the name.

    Alarms decide by the metrics of rounds, which are read from `store`. Where alarms steer, the
    names after a round that is not in the store are not known.
    """

    def __init__(self, store: Store | None = None, *, alarms_steer: bool = False) -> None:
        self._store, self._alarms_steer = store, alarms_steer

    def make(self, request: StageRequest) -> ArtifactRef:
        return request.output

    def begin(self, request: StageRequest) -> Pending:
        return Ready(request.output)

    def summary(self, ref: ArtifactRef) -> Mapping[str, object]:
        """Return an artifact's summary, empty for one that is not in the store.

        Raises NotComputedError where alarms decide by it.
        """
        if self._store is not None and self._store.have(ref):
            return self._store.load(ref).manifest.summary
        if self._alarms_steer:
            raise NotComputedError(
                f"{ref.kind} {ref.short} has not been made: alarms that steer decide by it what "
                "comes after it; play the campaign's rounds in order"
            )
        return {}


class NotComputedError(RefusedError):
    """The next stages depend on a metric of an artifact that is not in the store."""


def state_before(params: Params, index: int, store: Store | None = None) -> CampaignState:
    """Return the state that round `index` starts from, without computing.

    Where alarms steer, the rounds before it must be in `store`: raises NotComputedError where they
    are not, and RefusedError where an alarm stopped the campaign before this round.
    """
    plan = DryRunStages(store, alarms_steer=params.alarms.steers)
    state = play_start(plan, params)
    for _ in range(index):
        alarm_log.refuse_stopped(state.alarm_state, len(state.rounds))
        state = play_round(plan, params, state)
    return state


def final_state(params: Params, store: Store) -> CampaignState:
    """Return the state at the final evaluation; raises NotComputedError as `state_before`."""
    plan = DryRunStages(store, alarms_steer=params.alarms.steers)
    state = play_start(plan, params)
    while not state.is_over(params):
        state = play_round(plan, params, state)
    return state
