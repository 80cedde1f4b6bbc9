"""`afd status --json`."""

from pathlib import Path

from flows.commands.json_output import Document
from flows.commands.status import CampaignState, Overview, Work, alarm_lines
from flows.commands.up import standing
from flows.places import Places
from flows.prefect_runs.reach import answers


def status_document(found: Overview, runs: Path) -> Document:
    """Return `afd status --json`."""
    up = standing(Places(runs))
    prefect = None
    if up is not None:
        here = up.serving.is_here
        prefect = {
            "api": up.api,
            "host": up.serving.host,
            "pid": up.serving.pid,
            "answers": answers(up.api) if here else None,
        }
    return {
        "campaigns": [_campaign(one) for one in found.campaigns],
        "prefect": prefect,
        "scheduler_trouble": found.scheduler_trouble or None,
    }


def _campaign(one: CampaignState) -> Document:
    holder = one.holder
    return {
        "name": one.name,
        "state": one.state,
        "rounds_done": one.rounds_done,
        "num_rounds": one.num_rounds,
        "last_command": str(one.asked) if one.asked else None,
        "message": one.asked.told if one.asked and one.asked.told else None,
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
        "attempts": work.attempts,
        "done": done,
        "of": of,
        "log": work.log or None,
    }
