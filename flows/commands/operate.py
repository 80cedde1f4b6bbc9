"""Commands of an operator: up, down, status, logs, cancel, resume."""

import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from afd.runtime.outcome import RefusedError
from flows.campaign_lock import (
    CampaignRunningError,
    LockHolder,
    already_running,
    holder_of,
    request_cancel,
    still_beats,
    sure_holder_of,
)
from flows.command_text import command, sibling_program
from flows.commands.consoles import console as stdout_console
from flows.commands.logs import campaign_and_stage, chosen_log, follow, show
from flows.commands.status import (
    CampaignStatus,
    alarm_lines,
    campaigns_in,
    goes_on,
    hint_of_nodes,
    known_campaign,
    overview,
)
from flows.commands.up import (
    LOG,
    PROJECT_SETTINGS,
    bring_up,
    check_up,
    read_up,
    take_down,
)
from flows.jobs.records import lacks_nodes
from flows.paths import CampaignPaths, campaign_folder, refuse_unusable
from flows.prefect_runs import flow_runs
from flows.reconcile import reconcile, reconcile_when_free

MAX_LINES = 8  # `afd logs` has all of them
ORDERLY_S = 60.0  # a campaign that is asked to stop ends its jobs and tells MLflow and Prefect


def start_services(runs: Path, store: Path) -> None:
    """Bring the services up and print their addresses and the next commands."""
    paths = CampaignPaths(runs, store)
    up, was_up = bring_up(paths)
    os.environ["PREFECT_API_URL"] = up.api
    num_corrected = sum(_reconcile_left(folder.name, paths) for folder in campaigns_in(runs))
    console = _console()
    console.print(f"{'up already' if was_up else 'up'}: {up.api.removesuffix('/api')}")
    if num_corrected:
        console.print(f"  told     Prefect about {num_corrected} run(s) whose process was killed")
    console.print(f"  serving  afd/round and afd-campaign/campaign, pid {up.serving.pid}")
    console.print(f"  log      {runs / '.services' / LOG}")
    if up.is_own and not PROJECT_SETTINGS.exists():
        console.print(f"  elsewhere  export PREFECT_API_URL={up.api}")
    console.print(
        f"  next     {sibling_program('prefect')} deployment run afd/round "
        f"-p campaign={_free_name(runs)} -p params=params/pocket.yaml"
    )
    console.print(f"  stop     {command('down', runs=runs)}")


def preview_services(runs: Path, store: Path) -> None:
    """Print the effect of `afd up`; raises its refusals."""
    paths = CampaignPaths(runs, store)
    refuse_unusable(paths)
    known, api = check_up(paths)
    out = _console()
    if known is not None:
        out.print(f"dry run   up already: {known.api.removesuffix('/api')}; nothing would change")
        return
    server = f"use the server at {api}" if api else "start a Prefect server for this folder"
    out.print(f"dry run   would {server}; nothing was started or written")
    out.print("serving   afd/round and afd-campaign/campaign, in the background")


def _free_name(runs: Path) -> str:
    """Return a name that no campaign of `runs` has: a known one may have no round left."""
    names = chain(["demo"], (f"demo-{number}" for number in count(2)))
    return next(name for name in names if not (runs / name).exists())


def _reconcile_left(name: str, paths: CampaignPaths) -> int:
    """Correct Prefect's runs of a killed process; return their number, 0 while one runs."""
    if not flow_runs.is_any_open(campaign_folder(name, paths)):
        return 0
    try:
        return reconcile(name, paths, "crashed").num_flow_runs
    except CampaignRunningError:
        return 0


def stop_services(runs: Path) -> None:
    """Take the services down and print which these were."""
    ended = take_down(CampaignPaths(runs))
    if ended is None:
        line = f"nothing of `{command('up', runs=runs)}` runs here"
    elif ended.is_own:
        line = f"stopped: deployments (pid {ended.serving.pid}), and the server with its last user"
    else:
        line = f"stopped: deployments (pid {ended.serving.pid}); the server at {ended.api} is yours"
    _console().print(line)


def print_status(runs: Path, name: str | None, *, as_json: bool = False) -> None:
    """Print campaigns, their running and waiting stages, and the next command of each."""
    if name is not None:
        known_campaign(name, runs)
    found = overview(runs, name)
    if as_json:
        from flows.commands.json_output import print_document
        from flows.commands.status_json import status_document

        print_document(status_document(found, runs))
        return
    console = _console()
    if not found.campaigns:
        console.print(f"no campaign in {runs}")
    for one in found.campaigns:
        _print_campaign(console, one, runs)
    if found.scheduler_trouble:
        console.print(f"SLURM does not answer, states are the last seen: {found.scheduler_trouble}")
    _print_services(console, CampaignPaths(runs))


def _print_campaign(console: Console, one: CampaignStatus, runs: Path) -> None:
    rounds = f"{one.rounds_done} of {'?' if one.num_rounds is None else one.num_rounds} rounds"
    last = f"   asked: {one.last_command}" if one.last_command else ""
    held = f"   by {one.holder}" if one.holder else ""
    head = Text.assemble((one.name, "bold"), f"   {one.state}   {rounds}{last}{held}")
    console.print(head)
    if one.last_command is not None and one.last_command.message and one.holder is None:
        for line in _brief(one.last_command.message):
            console.print(f"  {line}")
    for line in (*one.damaged, *(f"warning  {notice}" for notice in one.notices)):
        console.print(Text(f"  {line}"), soft_wrap=True)
    if one.work:
        table = Table(box=None, padding=(0, 2, 0, 2))
        for column in ("stage", "job", "state", "reason", "attempts", "done"):
            table.add_column(column, no_wrap=column != "reason")
        for work in one.work:
            far = f"{work.progress[0]}/{work.progress[1]}" if work.progress else ""
            state = f"{work.state}, {work.age}" if work.age else work.state
            table.add_row(work.stage, work.jobs, state, work.reason or "-", str(work.attempts), far)
        console.print(table)
    for helps in dict.fromkeys(work.cure for work in one.work if work.cure):
        console.print(f"  {helps}", markup=False)
    if any(lacks_nodes(work.reason) for work in one.work):
        console.print(f"  {hint_of_nodes(one.name, runs)}")
    for line in alarm_lines(one):
        console.print(Text.assemble("  ", ("alarm", "yellow"), f"  {line}"))
    if one.is_left:
        seen = () if one.waits_after is None else ("--acknowledge",)
        console.print(f"  {command('resume', one.name, *seen, runs=runs)}    goes on")
    elif one.state == "paused":  # what was asked for is done, rounds are left
        console.print(f"  {goes_on(one)}    goes on with its rounds", soft_wrap=True)
    elif one.work and one.holder is None:
        console.print("  its jobs go on without a head")


def _brief(message: str) -> list[str]:
    """Return the lines of a refusal, whole with SLURM's own words, or the end of a log."""
    lines = [line.strip() for line in message.strip().splitlines()]
    return lines if len(lines) <= MAX_LINES else [lines[0], *lines[1 - MAX_LINES :]]


def _print_services(console: Console, paths: CampaignPaths) -> None:
    up = read_up(paths)
    if up is None:
        console.print(f"Prefect   not up ({command('up', runs=paths.runs)})", style="dim")
    elif not up.serving.is_here:
        line = f"`{command('status', runs=paths.runs)}` there says how it is"
        where = f"on {up.serving.host}, pid {up.serving.pid}"
        console.print(f"Prefect   up {where}: {line}", style="dim")
    else:
        again = command("up", runs=paths.runs)
        well = "serves" if up.is_well else f"is gone: `{again}` starts it again"
        server = "answers" if up.answers else "does not answer"
        console.print(f"Prefect   {up.api} {server}; pid {up.serving.pid} {well}", style="dim")


def print_logs(
    runs: Path,
    campaign: str | None,
    name: str | None,
    stage: str | None,
    lines: int,
    follows: bool,
) -> None:
    """Print the log of a stage; with `follows` and no stage named, of those after it too."""
    name, stage = campaign_and_stage(runs, campaign, name, stage)
    chosen = _chosen(runs, name)
    log = chosen_log(chosen, stage)
    sys.stdout.write(f"==> {log.path} ({log.why}) <==\n")
    at = show(log, lines)
    if follows:
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it early
            follow(log, at, lambda: overview(runs, chosen.name).campaigns[0], one=stage is not None)


def cancel_campaign(runs: Path, store: Path, name: str | None, *, now: bool) -> None:
    """Stop a campaign wherever it runs: its own jobs end, everything finished is kept."""
    chosen = _chosen(runs, name, running=True)
    paths = CampaignPaths(runs, Path(chosen.last_command.store) if chosen.last_command else store)
    holder = holder_of(chosen.folder)
    if holder is not None:
        _stop(chosen, holder, now=now)
    try:
        done = reconcile_when_free(chosen.name, paths, "cancelled", end_jobs=True)
    except CampaignRunningError:
        again = holder_of(chosen.folder) or "a process that just started"
        raise CampaignRunningError(
            f"campaign {chosen.name!r} was taken up meanwhile: {again}\n"
            f"  {command('status', chosen.name, runs=runs)}    says what it does"
        ) from None
    console = _console()
    ended = ", ".join(f"{entry.stage} {entry.job_id}" for entry in done.jobs)
    if holder is not None:
        console.print(f"cancelled: {chosen.name} ({holder})")
    elif done.jobs or done.num_flow_runs:
        console.print(f"cancelled: what {chosen.name} had left")
    else:
        console.print(f"{chosen.name}: nothing runs")
    if ended:
        console.print(f"  jobs     {ended}")
    (left,) = overview(runs, chosen.name).campaigns
    if left.is_left:
        console.print("  kept     everything finished, and checkpoints")
        console.print(f"  go on    {command('resume', chosen.name, runs=runs)}")


def _stop(chosen: CampaignStatus, holder: LockHolder, *, now: bool) -> None:
    """End the head process: by a request in the folder from any host, or `now` by SIGKILL if here.

    Raises RefusedError if it does not end.
    """
    here = holder.process.is_here
    if now and here:
        os.kill(holder.process.pid, signal.SIGKILL)
    else:
        request_cancel(chosen.folder, holder)
    deadline = time.monotonic() + ORDERLY_S
    while time.monotonic() < deadline:
        held = holder_of(chosen.folder)
        if held is None or held.token != holder.token:
            return
        time.sleep(0.2)
    if not here and not still_beats(chosen.folder, holder):
        return  # its host is gone
    raise RefusedError(
        f"{chosen.name}: {holder} does not end\n"
        f"  {command('cancel', chosen.name, '--now', runs=chosen.folder.parent)}    "
        + ("kills it" if here else f"on {holder.process.host} kills it")
    )


def to_resume(runs: Path, name: str | None) -> CampaignStatus:
    """Return the campaign `name` that no process holds, or the only unfinished one.

    Raises RefusedError.
    """
    if name is not None:
        chosen = overview(runs, known_campaign(name, runs).name).campaigns[0]
        if chosen.holder is None:
            return chosen
        if (holder := sure_holder_of(chosen.folder)) is not None:
            raise already_running(chosen.folder, chosen.name, holder)
        return replace(chosen, holder=None)
    left = [one for one in overview(runs).campaigns if one.is_left]
    if len(left) == 1:
        return left[0]
    if not left:
        raise RefusedError(f"{runs}: no campaign was stopped before its end")
    raise RefusedError(
        "several campaigns were stopped before their end:\n"
        + "\n".join(f"  {command('resume', one.name, runs=runs)}" for one in left)
    )


def _chosen(runs: Path, name: str | None, *, running: bool = False) -> CampaignStatus:
    """Return the campaign `name`, else the only one that runs, else the last."""
    if name is not None:
        return overview(runs, known_campaign(name, runs).name).campaigns[0]
    every = overview(runs).campaigns
    live = [one for one in every if one.holder is not None or one.work]
    if len(live) == 1 or (live and not running):
        return live[-1]
    if every and not live and (len(every) == 1 or not running):
        return every[-1]
    if not every:
        raise RefusedError(f"no campaign in {runs}")
    names = ", ".join(one.name for one in live or every)
    raise RefusedError(f"which campaign? name one of: {names}")


def _console() -> Console:
    return stdout_console(None, soft_wrap=True)
