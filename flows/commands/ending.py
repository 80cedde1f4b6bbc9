"""Endings of a command: done, refused with a cure, or interrupted by a signal."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from afd.errors import UserError
from flows.commands.exit_codes import ExitCode
from flows.commands.output import lost_output, steady_streams

STOPPED = "stopped: everything finished is kept; run the same command again to go on"
AGAIN_S = 0.05
_terminals: list[int] = []  # of the standard streams; a closed one is no terminal any more
_stop_message: list[str] = []  # its lines, from the first signal on


def until_end(run: Callable[[], Any]) -> NoReturn:
    """Run a command and leave with its exit code; 2 when refused, 130 when asked to stop."""
    steady_streams()
    signal.signal(signal.SIGTERM, _on_stop_signal)
    signal.signal(signal.SIGINT, _on_stop_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        _terminals[:] = [stream for stream in (0, 1, 2) if _is_terminal(stream)]
        signal.signal(signal.SIGHUP, _terminal_closed)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _unraisable
    try:
        code = run()
    except KeyboardInterrupt as stopped:
        _leave(ExitCode.INTERRUPTED, str(stopped) or "".join(_stop_message) or STOPPED)
    except Exception as error:
        if _stop_message:  # what computed beside the interrupted one gave up first
            _leave(ExitCode.INTERRUPTED, "".join(_stop_message) or STOPPED)
        if not isinstance(error, UserError):
            raise
        _leave(error.exit_code or ExitCode.REFUSED, str(error))
    _leave(code if isinstance(code, int) else ExitCode.DONE)


def _on_stop_signal(*_: object) -> None:
    """Interrupt the command at Ctrl-C or SIGTERM; at the second one leave at once."""
    if "flows.session" in sys.modules:
        from flows.commands.abandon import abandon, what_stops

        if _stop_message:
            abandon()
        _stop_message.extend(what_stops())  # now: the campaign's lock goes before the end
    _stop_message.append("")
    _interrupt()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Raise an interrupt again, AGAIN_S later, that Python has lost in a finalizer.

    Python prints an exception of a finalizer and goes on.
    """
    if _stop_message and lost.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(lost)


def _terminal_closed(*_: object) -> None:
    """Handle SIGHUP once as Ctrl-C, with the streams of the closed terminal on /dev/null."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a shell that ends sends another one
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in _terminals:
        os.dup2(nowhere, stream)
    if not _stop_message:
        _on_stop_signal()


def _is_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:  # closed at the start
        return False


def _leave(code: int, message: str = "") -> NoReturn:
    """Print `message` and exit with `code`; later signals are ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if message:
        sys.stderr.write(f"{message.rstrip()}\n")
    sys.stdout.flush()
    if lost := lost_output():
        sys.stderr.write(f"the output is not whole: {lost}\n")
        code = code or ExitCode.NO
    sys.stderr.flush()
    sys.exit(code)
