"""Log of the decisions of alarms, a file a round: runs/<name>/decisions/<NNN>.json.

A record for people: what is decided is a pure function of the rounds' artifacts
(afd/evaluation/alarm_policy.py), the same whenever it is computed. acknowledged.json beside the
records lists the pauses that a person has acknowledged: the campaign goes on after those.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afd.evaluation.alarm_policy import AlarmState
from afd.runtime.outcome import RefusedError
from afd.store import disk_errors, write_json
from flows import record_files
from flows.command_text import command
from flows.paths import CampaignPaths, campaign_folder
from flows.progress import round_label

FOLDER, ACKNOWLEDGED = "decisions", "acknowledged.json"


class PausedError(RefusedError):
    """An alarm has paused the campaign: the text has the alarm and the next command."""


def record_decision(folder: Path, index: int, alarm_state: AlarmState) -> dict[str, Any]:
    """Write the decision after round `index`, unless it is there already; return it."""
    file, record = folder / FOLDER / f"{index:03d}.json", alarm_state.record(index)
    if _read(file) != record:
        with disk_errors(folder):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, record)
    return record


def records(folder: Path) -> list[dict[str, Any]]:
    """Every decision of a campaign, in the order of its rounds."""
    found = [_read(file) for file in sorted((folder / FOLDER).glob("[0-9]*.json"))]
    return [record for record in found if record is not None]


def refuse_paused(name: str, paths: CampaignPaths, index: int, alarm_state: AlarmState) -> None:
    """Raise PausedError where round `index` ended in a pause that nobody has acknowledged."""
    folder = campaign_folder(name, paths)
    if alarm_state.ends != "pauses" or index in acknowledged(folder):
        return
    alarms = "\n".join(f"  {alarm}" for alarm in alarm_state.alarms)
    changes = "".join(f"\n  {change}" for change in alarm_state.changes)
    where = {"runs": paths.runs, "store": paths.store}
    goes_on = command("resume", name, "--acknowledge", runs=paths.runs)
    other = command(
        "campaign", f"{name}-2", "--params", str(folder / "params.yaml"), "--set",
        "FIELD=VALUE", **where,
    )  # fmt: skip
    rounds = "round 0" if index == 0 else f"rounds 0 to {index}"
    raise PausedError(
        f"{name}: paused by an alarm after round {index}\n{alarms}{changes}\n"
        f"  kept: {rounds}, whole; nothing has been computed after them\n"
        f"  {goes_on}    you have seen it: goes on as it is\n"
        f"  {other}    another campaign with other values; it finds in the store what it shares"
    )


def refuse_stopped(alarm_state: AlarmState, index: int) -> None:
    """Raise RefusedError for a round after the one at which an alarm stopped the campaign."""
    if alarm_state.ends == "stops":
        alarms = "".join(f"\n  {one}" for one in alarm_state.alarms if one.action == "stop")
        raise RefusedError(
            f"round {index}: an alarm stopped the campaign after round {index - 1}{alarms}\n"
            "  everything is kept; the campaign itself, typed again, evaluates its student"
        )


def is_stopped(folder: Path, num_rounds: int) -> bool:
    """Return whether an alarm stopped a campaign after `num_rounds` rounds."""
    return any(one["round"] == num_rounds - 1 and one["ends"] == "stops" for one in records(folder))


def paused_after(folder: Path) -> int | None:
    """Return the round whose pause is not acknowledged, None where there is none."""
    last = records(folder)[-1:]
    seen = acknowledged(folder)
    waiting = [one["round"] for one in last if one["ends"] == "pauses"]
    return next((index for index in waiting if index not in seen), None)


def acknowledged(folder: Path) -> frozenset[int]:
    """Return the rounds whose pause a person has acknowledged."""
    seen = record_files.known_record(folder / ACKNOWLEDGED, record_files.ACKNOWLEDGED)
    return frozenset(seen["rounds"] if seen else ())


def acknowledge(folder: Path) -> int | None:
    """Acknowledge the pause; return its round, None where there is no pause."""
    index = paused_after(folder)
    if index is not None:
        with disk_errors(folder):
            rounds = sorted({*acknowledged(folder), index})
            write_json(folder / ACKNOWLEDGED, {"rounds": rounds})
    return index


def lines(record: Mapping[str, Any]) -> Sequence[str]:
    """Return a decision as text, a line an alarm and a change."""
    where = round_label(record["round"])
    alarms = [
        f"{where}: {one['name']} ({one['action']}): {one['gauge']} is "
        f"{one['value']:.3g}, limit {one['limit']:.3g}: {one.get('says', '')}"
        for one in record["alarms"]
    ]
    return [*alarms, *(f"{where}: {change}" for change in record["changes"])]


def _read(file: Path) -> dict[str, Any] | None:
    """Return the content; None for a file that is missing or cut short, which is written again."""
    decision = record_files.known_record(file, record_files.DECISION)
    return None if decision is None else dict(decision)
