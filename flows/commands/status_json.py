"""`afd status --json`."""

from pathlib import Path

from flows.commands.json_output import Document
from flows.commands.status import CampaignStatus, Overview, Work, alarm_lines
from flows.commands.up import read_up
from flows.paths import CampaignPaths


def status_document(found: Overview, runs: Path) -> Document:
    """Return `afd status --json`."""
    up = read_up(CampaignPaths(runs))
    prefect = None
    if up is not None:
        here = up.serving.is_here
        prefect = {
            "api": up.api,
            "host": up.serving.host,
            "pid": up.serving.pid,
            "answers": up.answers if here else None,
        }
    return {
        "campaigns": [_campaign(one) for one in found.campaigns],
        "prefect": prefect,
        "scheduler_trouble": found.scheduler_trouble or None,
    }


def _campaign(one: CampaignStatus) -> Document:
    holder = one.holder
    return {
        "name": one.name,
        "state": one.state,
        "rounds_done": one.rounds_done,
        "num_rounds": one.num_rounds,
        "damaged": list(one.damaged),
        "notices": list(one.notices),
        "last_command": str(one.last_command) if one.last_command else None,
        "message": one.last_command.message
        if one.last_command and one.last_command.message
        else None,
        "held_by": holder
        and {"host": holder.process.host, "pid": holder.process.pid, "since": holder.since},
        "is_resumable": one.is_left,
        "alarm_round": one.waits_after,
        "alarms": alarm_lines(one),
        "stages": [_stage_at_work(work) for work in one.work],
    }


def _stage_at_work(work: Work) -> Document:
    done, of = work.progress or (None, None)
    return {
        "stage": work.stage,
        "job": work.jobs,
        "state": work.state,
        "reason": work.reason or None,
        "age": work.age or None,
        "attempts": work.attempts,
        "done": done,
        "of": of,
        "log": work.log or None,
    }
