"""Last command of a campaign and its end: runs/<name>/asked.json.

`afd resume` runs it again; `afd status` prints it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, ValidationError

from afd.config import Cluster, Frozen
from afd.shipped import shipped
from afd.store import write_atomic

FILE = "asked.json"
CommandKind = Literal["campaign", "round"]
# running: its process runs, or was killed; paused: the command is done, rounds are left
CommandState = Literal["running", "finished", "paused", "failed", "cancelled", "killed"]


class ClusterSource(Frozen):
    """File of a cluster, and the overrides on it."""

    file: str  # absolute
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: str | Path, overrides: Sequence[str] = ()) -> "ClusterSource":
        return cls(file=str(shipped(Path(file)).resolve()), overrides=tuple(overrides))


class LastCommand(Frozen):
    """One command, with its cluster and store."""

    kind: CommandKind = Field(
        validation_alias=AliasChoices("kind", "doing"), serialization_alias="doing"
    )
    round_index: int | None
    cluster: Cluster  # as it was then
    store: str
    with_prefect: bool
    cluster_source: ClusterSource | None = None  # read again by `afd resume`: it may be mended
    state: CommandState = "running"
    message: str = Field(
        default="", validation_alias=AliasChoices("message", "told"), serialization_alias="told"
    )  # of the error that ended it

    def __str__(self) -> str:
        if self.kind == "campaign":
            return "campaign"
        return "next round" if self.round_index is None else f"round {self.round_index}"


def read_last_command(folder: Path) -> LastCommand | None:
    """Return the last command; None where there is none or an earlier version wrote it."""
    try:
        return LastCommand.model_validate_json((folder / FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_last_command(folder: Path, last: LastCommand) -> None:
    write_atomic(folder / FILE, last.model_dump_json(by_alias=True).encode())


def restore_last_command(folder: Path, before: LastCommand | None) -> None:
    """Write the command `before` back; remove the file where it is None."""
    if before is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        write_last_command(folder, before)
