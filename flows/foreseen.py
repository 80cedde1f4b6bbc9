"""Where a campaign will stand, known without computing: identity is known beforehand."""

from afd.config import Params
from afd.store import Store
from flows import decisions
from flows.round import play_round, play_start
from flows.standing import Standing
from flows.tasks import Plan


def standing_before(params: Params, index: int, store: Store | None = None) -> Standing:
    """The standing that round `index` starts from: every name is known without computing.

    Where alarms steer, the rounds before it must stand in `store`: raises UnmadeError where they
    do not, and RefusedError where an alarm stopped the campaign before this round.
    """
    plan = Plan(store, alarms_steer=params.alarms.steers)
    standing = play_start(plan, params)
    for _ in range(index):
        decisions.refuse_stopped(standing.course, len(standing.rounds))
        standing = play_round(plan, params, standing)
    return standing


def standing_after_all(params: Params, store: Store) -> Standing:
    """The standing of the final evaluation; raises UnmadeError as `standing_before`."""
    plan = Plan(store, alarms_steer=params.alarms.steers)
    standing = play_start(plan, params)
    while not standing.is_over(params):
        standing = play_round(plan, params, standing)
    return standing
