"""States of a campaign without computing: every artifact is named by its request."""

from afd.config import Params
from afd.store import Store
from flows import alarm_log
from flows.round import play_round, play_start
from flows.state import CampaignState
from flows.tasks import DryRunStages


def state_before(params: Params, index: int, store: Store | None = None) -> CampaignState:
    """Return the state that round `index` starts from, without computing.

    Where alarms steer, the rounds before it must be in `store`: raises NotComputedError where they
    are not, and RefusedError where an alarm stopped the campaign before this round.
    """
    plan = DryRunStages(store, alarms_steer=params.alarms.steers)
    state = play_start(plan, params)
    for _ in range(index):
        alarm_log.refuse_stopped(state.course, len(state.rounds))
        state = play_round(plan, params, state)
    return state


def final_state(params: Params, store: Store) -> CampaignState:
    """Return the state at the final evaluation; raises NotComputedError as `state_before`."""
    plan = DryRunStages(store, alarms_steer=params.alarms.steers)
    state = play_start(plan, params)
    while not state.is_over(params):
        state = play_round(plan, params, state)
    return state
