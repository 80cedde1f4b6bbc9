"""How a command ends: done, refused in words a person can use, or asked to stop."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from flows.commands.exit_codes import ExitCode
from flows.errors import is_user_error

STOPPED = "stopped: everything finished is kept; run the same command again to go on"
AGAIN_S = 0.05
_terminals: list[int] = []  # of the standard streams; a closed one is no terminal any more
_said: list[str] = []  # once asked to stop: what a person is told


def until_end(run: Callable[[], Any]) -> NoReturn:
    """Run a command and leave with its exit code; 2 when refused, 130 when asked to stop."""
    signal.signal(signal.SIGTERM, _asked_to_stop)
    signal.signal(signal.SIGINT, _asked_to_stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        _terminals[:] = [stream for stream in (0, 1, 2) if _is_terminal(stream)]
        signal.signal(signal.SIGHUP, _terminal_closed)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _unraisable
    try:
        code = run()
    except KeyboardInterrupt as stopped:
        _leave(ExitCode.INTERRUPTED, str(stopped) or "".join(_said) or STOPPED)
    except Exception as error:
        if _said:  # what computed beside the interrupted one gave up first
            _leave(ExitCode.INTERRUPTED, "".join(_said) or STOPPED)
        if not is_user_error(error):
            raise
        _leave(ExitCode.REFUSED, str(error))
    _leave(code if isinstance(code, int) else ExitCode.DONE)


def _asked_to_stop(*_: object) -> None:
    """Ctrl-C or SIGTERM: jobs are stopped and locks let go; a second one leaves at once."""
    if "flows.session" in sys.modules:
        from flows.commands.abandon import abandon, what_stops

        if _said:
            abandon()
        _said.extend(what_stops())  # now: by the time it is said the campaign is let go
    _said.append("")
    _interrupt()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """A signal that came while Python ran a finalizer is raised there, printed and lost: raise it
    again, a moment later, where it ends the command."""
    if _said and lost.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(lost)


def _terminal_closed(*_: object) -> None:
    """SIGHUP: the same as Ctrl-C, once, with nobody left to read what is printed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a shell that ends sends another one
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in _terminals:
        os.dup2(nowhere, stream)
    if not _said:
        _asked_to_stop()


def _is_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:  # closed at the start
        return False


def _leave(code: int, said: str = "") -> NoReturn:
    """Late signals are no news: all that is left is to leave."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if said:
        sys.stderr.write(f"{said.rstrip()}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
