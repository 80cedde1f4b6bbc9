"""What the vendor will do: how its jobs end (Fate) and what befalls single requests (Rule)."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verb = Literal["create", "poll", "list", "download"]
Ending = Literal[
    "succeeded",
    "refused_input",
    "refused_output",
    "no_videos",  # "done", with an empty list
    "failed",
    "expired",
    "cancelled",
]
Act = Literal[
    "answer",  # status, headers and body of the rule; the vendor does nothing
    "work_then_answer",  # the vendor does its work, then says status, headers, body of the rule
    "reset_before",  # the connection is reset, nothing was done
    "reset_after",  # the vendor does its work, the reply is lost
    "hang",  # the vendor does its work and never answers
    "half",  # a good reply, cut in the middle of its body
    "chunked",  # a good reply without a length
    "half_chunked",  # the same, cut before the last chunk
    "unframed",  # a good reply without length or chunks: it ends when the connection does
    "endless",  # bytes without end, without a length
    "slow",  # a good reply, at bytes_per_s
    "compressed",  # a good reply, gzip although identity was asked for
    "half_compressed",  # the same, cut in the middle: only gzip itself tells
    "more_than_compressed",  # the same, and other bytes behind its end
    "short",  # half of a body, framed as if that were all of it
    "changed",  # another body than before, with another ETag
]


@dataclass(frozen=True)
class Rule:
    """What befalls requests of one verb: the first one that fits and is not used up."""

    on: Verb
    do: Act = "answer"
    prompt: str = ""  # part of the prompt; "": any
    skip: int = 0  # let so many fitting requests pass first
    times: int | None = 1  # None: for ever
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: str = ""
    bytes_per_s: int = 1000


@dataclass(frozen=True)
class Fate:
    """How jobs whose prompt contains `prompt` go: the first that fits."""

    prompt: str = ""
    ends: Ending = "succeeded"
    job_s: float | None = None  # None: the script's; inf as JSON cannot say it: 1e9 never ends
    states: tuple[str, ...] = ()  # instead of time: the vendor's word at each poll, the last stays
    num_videos: int = 1
    url: str | None = None  # where the video is said to be, instead of here
    fps: int | None = None  # other than the teacher's
    size: int | None = None
    num_frames: int | None = None
    text: str = "Refused by policy. Request id: 0217-abc"  # the vendor's reason
    usage: bool = True
    status: int = 200  # HTTP status of a poll of the job once it has ended
    extra: dict[str, Any] = field(default_factory=dict[str, Any])  # laid over the poll's body


@dataclass(frozen=True)
class Script:
    """One vendor for one test."""

    latency_s: float = 0.0  # of every answer
    job_s: float = 0.05  # from created to done; a third of it in the queue
    task_id: str = "job-{}"  # with a number in place of the braces
    url_lives_s: float = 86400.0  # of a signed URL; each poll gives a fresh one
    key: str | None = None  # refuse other keys with 401
    film: Literal["simulator", "constant"] = "simulator"
    max_in_flight: int | None = None  # more unfinished jobs are answered with 429
    list_lags_s: float = 0.0  # a job shows in listings only so long after it was created
    fates: tuple[Fate, ...] = ()
    rules: tuple[Rule, ...] = ()

    def fate(self, prompt: str) -> Fate:
        """How the job of this prompt goes."""
        return next((fate for fate in self.fates if fate.prompt in prompt), Fate())

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Script":
        """What to_json wrote; unknown keys raise TypeError."""
        values = json.loads(text)
        fates = tuple(
            Fate(**{**fate, "states": tuple(fate.get("states", ()))})
            for fate in values.pop("fates", ())
        )
        rules = tuple(Rule(**rule) for rule in values.pop("rules", ()))
        return Script(**values, fates=fates, rules=rules)
