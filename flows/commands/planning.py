"""`afd plan`: work, memory, time and money of a campaign; exit code 2 when it cannot fit."""

from pathlib import Path

import psutil
from rich.table import Table
from rich.text import Text

from afd.config import FilePrompts, Params, is_published
from afd.planning.machines import Device, machine
from afd.planning.plan import CampaignPlan, StagePlan, plan
from afd.store import Store
from afd.video.rhythm import rhythm_note
from flows.command_text import STORE
from flows.commands.consoles import console
from flows.commands.exit_codes import ExitCode
from flows.commands.json_output import Document, print_document
from flows.inputs import prompts_of

GIGA = 1e9


def print_plan(
    params: Params,
    device: Device | None,
    memory_gb: float | None,
    usd_per_hour: float | None,
    num_ranks: int = 1,
    *,
    as_json: bool = False,
) -> int:
    """Print the plan of `params`; return 0, or 2 when something cannot fit. Raises ParamsError."""
    refuse_unusable_prompts(params)
    chosen = device or ("h100" if is_published(params.student) else "cpu")
    if chosen == "cpu" and memory_gb is None:
        memory_gb = psutil.virtual_memory().total / GIGA
    planned = plan(params, machine(chosen, memory_gb, usd_per_hour), num_ranks)
    if as_json:
        print_document(plan_document(planned) | {"notes": _notes(params)})
        return ExitCode.REFUSED if planned.problems else ExitCode.DONE
    out = console()
    out.print(_sizes(planned))
    out.print(_stages(planned))
    for line in _totals(planned):
        out.print(line)
    for note in _notes(params):
        out.print(f"note     {note}", soft_wrap=True)
    for problem in planned.problems:
        out.print(Text.assemble(("cannot fit", "red"), f"  {problem}"), soft_wrap=True)
    return ExitCode.REFUSED if planned.problems else ExitCode.DONE


def _notes(params: Params) -> list[str]:
    """Return what the teacher's rate does to the clips that are judged."""
    rate = params.teacher_fps
    note = None if rate is None else rhythm_note(rate, params.fps, params.num_frames)
    return [] if note is None else [note]


def refuse_unusable_prompts(params: Params) -> None:
    """Check the prompts as a campaign does; a file that is still to be written may be absent.

    Raises PromptsError, RefusedError.
    """
    prompts = params.prompts
    if not isinstance(prompts, FilePrompts) or Path(prompts.path).exists():
        prompts_of(params, Store(STORE))


def _sizes(planned: CampaignPlan) -> Table:
    """Return the size of the student, of a clip, and of one pass of each kind."""
    work = planned.work
    wan = work.wan
    table = Table("one clip", "", show_header=False, box=None)
    trained = "all trained" if work.rank is None else f"LoRA {work.num_trained / 1e6:,.0f} M"
    table.add_row("student", f"{_count(wan.num_parameters)} parameters, {trained}")
    per_frame = f"{wan.tokens_per_frame:,} tokens a latent frame, {wan.num_tokens:,} a clip"
    table.add_row("tokens", f"{per_frame}, {wan.num_blocks} blocks")
    table.add_row("KV cache", _bytes(wan.cache_bytes(work.bytes_per_value)))
    table.add_row("rollout", _flops(wan.rollout_flops(work.num_steps)))
    training = wan.training_flops(
        work.rank, checkpointing=work.checkpointing, context_gradient=work.context_gradient
    )
    table.add_row("training pass", f"{_flops(training)}, forward {_flops(wan.parallel_flops)}")
    table.add_row("score", _flops(work.discriminator.score_flops))
    return table


def _stages(planned: CampaignPlan) -> Table:
    used = planned.machine
    memory = f"of {used.memory_gb:.0f} GB"
    each = [used.hours(stage.flops) for stage in planned.stages]
    unit, per_hour = _time_unit(max(each))
    table = Table("stage", "runs", "work a run", f"{unit} a run", memory, "most of it")
    for stage, hours in zip(planned.stages, each, strict=True):
        table.add_row(
            stage.stage, str(stage.runs), _flops(stage.flops), _three_digits(hours * per_hour),
            _bytes(stage.peak_bytes), _parts(stage),
        )  # fmt: skip
    return table


def _parts(stage: StagePlan) -> str:
    """Return the largest part of the memory."""
    parts = sorted(stage.memory.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {_bytes(size)}" for name, size in parts[:1] if size)


def _totals(planned: CampaignPlan) -> list[str]:
    used, hours = planned.machine, planned.device_hours
    unit = "core-hours" if used.device == "cpu" else f"GPU-hours ({used.device})"
    time = f"{_three_digits(hours)} {unit} at {used.peak_tflops * used.utilisation:,.3g} TFLOP/s"
    if used.usd_per_hour is not None:
        time += f", {hours * used.usd_per_hour:,.2f} USD"
    teacher = f"{planned.num_clips:,} clips at most"
    if planned.usd_per_clip is None:
        teacher += ", nothing to pay"
    else:
        teacher += f" at {planned.usd_per_clip:.3f} USD: {planned.teacher_usd or 0:,.2f} USD"
    lines = [
        f"devices  {planned.num_ranks} for an update (--ranks), memory is of each",
        f"time     {time}; right within a factor of two",
        f"teacher  {teacher}",
        f"store    {_bytes(planned.stored_bytes)} beside the teacher's videos",
    ]
    return lines + [f"assumed  {what}" for what in planned.work.assumed]


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _flops(flops: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
        if flops >= 2 * size:
            return f"{flops / size:,.{0 if flops >= 100 * size else 1}f} {unit}"
    return f"{flops / 1e6:,.1f} MFLOP"


def _bytes(size: float) -> str:
    for unit, bytes_of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_of:
            return f"{size / bytes_of:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def _time_unit(hours: float) -> tuple[str, float]:
    """Return the unit of a column whose largest value this is, and how many an hour has."""
    if hours >= 1:
        return "hours", 1.0
    return ("minutes", 60.0) if hours * 60 >= 1 else ("seconds", 3600.0)


def _three_digits(number: float) -> str:
    """Return three digits of a number; "< 0.001" instead of 0 for a small one."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number >= 0.001 else "< 0.001"


def plan_document(planned: CampaignPlan) -> Document:
    """Return `afd plan --json`."""
    used, hours, work = planned.machine, planned.device_hours, planned.work
    usd = None if used.usd_per_hour is None else hours * used.usd_per_hour
    return {
        "device": used.device,
        "memory_gb": used.memory_gb,
        "num_ranks": planned.num_ranks,
        "num_parameters": work.wan.num_parameters,
        "num_trained_parameters": work.num_trained,
        "tokens_per_clip": work.wan.num_tokens,
        "stages": [
            {
                "stage": stage.stage,
                "runs": stage.runs,
                "flops": stage.flops,
                "hours": used.hours(stage.flops),
                "peak_bytes": stage.peak_bytes,
                "memory_bytes": dict(stage.memory),
                "stored_bytes": stage.stored,
            }
            for stage in planned.stages
        ],
        "device_hours": hours,
        "device_usd": usd,
        "num_clips": planned.num_clips,
        "usd_per_clip": planned.usd_per_clip,
        "teacher_usd": planned.teacher_usd,
        "stored_bytes": planned.stored_bytes,
        "assumed": list(work.assumed),
        "problems": list(planned.problems),
        "fits": not planned.problems,
    }
