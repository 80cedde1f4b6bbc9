"""Identity of a process on any host: host, pid and start time."""

import os
import socket
import time

import psutil

from afd.config import Frozen


class ProcessId(Frozen):
    """Identity of a process; the start time tells it from a later process with the same pid."""

    pid: int
    host: str
    created: float
    beat: int = 0  # changes with every sign of life

    @classmethod
    def current(cls) -> "ProcessId":
        return cls.of(os.getpid()).model_copy(update={"beat": time.time_ns()})

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        return cls(pid=pid, host=socket.gethostname(), created=psutil.Process(pid).create_time())

    @property
    def is_here(self) -> bool:
        """True for a present or former process of this host."""
        return self.host == socket.gethostname()

    def is_same(self, other: "ProcessId") -> bool:
        """Return True when both name one process; start times may differ by 1 s."""
        same_number = (self.host, self.pid) == (other.host, other.pid)
        return same_number and abs(self.created - other.created) < 1.0

    def is_alive(self) -> bool:
        """Return False for a process of this host that has ended.

        A process of another host cannot be checked and counts as alive: nobody takes over from it.
        """
        if not self.is_here:
            return True
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
