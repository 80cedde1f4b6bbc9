"""What the vendor remembers: every POST, every job, and where each job stands now."""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from tests.harvest_server.script import Fate, Script


@dataclass(frozen=True)
class Asked:
    """A create request, as any provider's shape reads it."""

    prompt: str
    seed: int | None
    model: str
    body: dict[str, Any]  # everything that was asked, for assertions


@dataclass
class Job:
    """One video in the making."""

    id: str
    asked: Asked
    fate: Fate
    job_s: float
    created: float = field(default_factory=time.time)
    num_polls: int = 0

    def state(self) -> str:
        """Where it stands: queued, running, an ending, or a word of the script's own."""
        if self.fate.states:
            return self.fate.states[min(self.num_polls, len(self.fate.states)) - 1]
        age = time.time() - self.created
        if age >= self.job_s:
            return self.fate.ends
        return "queued" if age < self.job_s / 3 else "running"

    @property
    def seed(self) -> int:
        """As asked, or the vendor's own choice."""
        return self.asked.seed if self.asked.seed is not None else len(self.asked.prompt)

    @property
    def is_done(self) -> bool:
        """Whether it has left the vendor's machines."""
        return self.state() not in ("queued", "running")


@dataclass
class Book:
    """Everything that happened at this vendor."""

    jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    posts: list[Asked] = field(default_factory=list[Asked])  # each create that arrived whole
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    passed: dict[int, int] = field(default_factory=dict[int, int])  # rule -> requests that fitted
    signatures: dict[str, float] = field(default_factory=dict[str, float])  # URL's -> until when

    def open(self, script: Script, asked: Asked) -> Job:
        """A new job: from here on it costs."""
        fate = script.fate(asked.prompt)
        job_s = script.job_s if fate.job_s is None else fate.job_s
        job = Job(script.task_id.format(secrets.token_hex(8)), asked, fate, job_s)
        self.jobs[job.id] = job
        return job

    def listed(self, script: Script) -> list[Job]:
        """Newest first, as vendors list them."""
        until = time.time() - script.list_lags_s
        return [job for job in reversed(self.jobs.values()) if job.created <= until]

    def sign(self, lives_s: float) -> str:
        """A fresh signature for a URL."""
        signature = f"CANARYSIGNATURE{secrets.token_hex(8)}"
        self.signatures[signature] = time.time() + lives_s
        return signature
