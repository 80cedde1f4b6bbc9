"""Final states of Prefect runs that end in an error meant for a person.

    RefusedError and its like   Failed, named Refused: nothing was computed and nothing changed
    PausedError                 Cancelled, named Paused: an alarm waits for a person
    StageFailedError and others Failed, the message in place of a traceback

Prefect's own Paused and Suspended are no final states: their button "Resume" plays the same run
again, with the same parameters, and would meet the same alarm, while `acknowledge` is a new run.
Cancelled is for what was called off in order, and sets off no alarm of a failure. A refusal is
Failed, so that `prefect deployment run --watch` and automations notice it.
"""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from afd.errors import UserError
from afd.params import ParamsError
from afd.runtime.outcome import RefusedError
from flows.alarm_log import PausedError
from flows.campaign_lock import CampaignRunningError

if TYPE_CHECKING:
    from prefect import State

P = ParamSpec("P")
R = TypeVar("R")
_ended: list[Exception] = []


def ends_in_words(body: Callable[P, R]) -> Callable[P, "R | State[Any]"]:
    """Wrap the body of a flow or task: an error for a person becomes its final state.

    Prefect shows the state's message and no traceback; the rest of the text goes to the run's log.
    Who called the flow gets the error itself. Bugs are raised as before, with their traceback.
    """

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> "R | State[Any]":
        _ended.clear()
        try:
            return body(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, UserError):
                raise
            _ended.append(error)
            return _state(error)

    return run


def unreported_error() -> Exception | None:
    """Return the error that the last flow ended in, for a caller whose server went away before
    it could take the state."""
    return _ended[-1] if _ended else None


def raise_ended(result: Any) -> Any:
    """Return what a task returned; raise the error that one wrapped as above ended in."""
    from prefect import State
    from prefect.states import get_state_exception

    if isinstance(result, State):
        error: Any = get_state_exception(result)
        raise error
    return result


def _state(error: Exception) -> "State[Any]":
    from prefect import get_run_logger
    from prefect.states import Cancelled, Failed

    text = inspect.cleandoc(str(error))
    message = text.splitlines()[0] if text else type(error).__name__
    log = get_run_logger()
    logging.getLogger("prefect.flow_runs").addFilter(_is_news)
    if isinstance(error, PausedError):
        log.warning("%s", text)
        return Cancelled(name="Paused", message=message, data=error)
    log.error("%s", text)
    if isinstance(error, RefusedError | ParamsError | CampaignRunningError):
        return Failed(name="Refused", message=message, data=error)
    return Failed(message=message, data=error)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record is more than the traceback of an error that a state tells: the
    process of a deployment's run raises the state's error at its very end, and logs that."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not isinstance(error, UserError)
