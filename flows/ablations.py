"""The ablations: one campaign an arm, a world and a training seed, and what a table needs of each.

`dvc repro` runs one stage after another; a cell of its matrix is one call of `play`, which plays
the other cells of its group beside its own, a core each. They are campaigns like any other: what
has been computed, by whomever, is found in the store, so the later cells only read.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from afd.artifacts import ArtifactRef
from afd.config import Frozen, Params
from afd.config.values import Count, Listed
from afd.errors import UserError
from afd.evaluation.metric_specs import SHORT
from afd.evaluation.results import FAILED, CellResult, save_cell
from afd.params import ParamsError, load_params, validate
from afd.store import Store
from afd.yaml_files import UnreadableYamlError, read_yaml
from flows.ablation_progress import GroupProgress
from flows.campaign import play_final, play_horizon
from flows.campaign_lock import LockHolder, holder_of
from flows.dry_run import DryRunStages, NotComputedError, final_state
from flows.jobs.site import log_tail
from flows.last_command import read_last_command
from flows.paths import CampaignPaths, saved_params
from flows.recorded import cell_name

POCKET, ABLATIONS, GRID = (Path("params") / n for n in ("pocket.yaml", "ablations", "grid.yaml"))
RESULTS = Path("results")
PROTOCOL = "protocol"
EVERY_SEED = ("main", "further")
MORE = {  # group -> overlays that its cells have beside their arm
    "main": (PROTOCOL, "twice_as_long"),
    "further": (PROTOCOL, "twice_as_long"),
    "grid": (PROTOCOL,),
    "worlds": (PROTOCOL,),
    "long": (PROTOCOL,),
}
Name = Annotated[str, Field(pattern=r"^\w+$", strict=True)]
POLL_S = 0.2
PR_SET_PDEATHSIG = 1
CURVES = {  # of a round: stage -> what is drawn
    "evaluation": SHORT,
    "discriminator": ("margin", "pair_accuracy", "group_spread"),
    "student": ("mean_score", "distance_to_reference"),
}  # fmt: skip


class Grid(Frozen):
    """Names of params/ablations/, by how they are played."""

    seeds: Listed[tuple[Count, ...]]  # of training: main and further arms have them all
    main: Listed[tuple[Name, ...]]
    further: Listed[tuple[Name, ...]]
    grid: Listed[tuple[Name, ...]]
    long: Listed[tuple[Name, ...]]
    worlds: Listed[tuple[Name, ...]]
    world_arms: Listed[tuple[Name, ...]]


class UnplayedError(UserError):
    """A cell whose campaign was killed or paused."""


@dataclass(frozen=True)
class Cell:
    """One campaign of the grid."""

    arm: str
    seed: int
    world: str | None = None
    more: tuple[str, ...] = ()  # overlays that every cell of its group has
    settings: tuple[str, ...] = ()  # dotted.field=value: of tuning alone

    @property
    def name(self) -> str:
        """Of its files and of its campaign."""
        settings: list[str] = []  # by initials: a campaign's name has 64 letters at most
        for field, _, value in (setting.partition("=") for setting in self.settings):
            initials = "".join(word[0] for word in field.rsplit(".", 1)[-1].split("_"))
            settings.append(f"{initials}{value}")
        world = [self.world] if self.world else []
        return cell_name(self.arm, *world, str(self.seed), *settings)

    @property
    def campaign(self) -> str:
        return f"ablation-{self.name}"

    @property
    def overlays(self) -> list[Path]:
        names = (*self.more, self.world, self.arm)
        return [ABLATIONS / f"{name}.yaml" for name in names if name]

    def params(self) -> Params:
        """Return the params of the cell; raises ParamsError."""
        return load_params(Params, POCKET, self.overlays, [f"seed={self.seed}", *self.settings])


def group(name: str, seed: int) -> list[Cell]:
    """Return the cells that are played side by side; raises ParamsError for an unknown group."""
    grid = read_grid()
    if name not in MORE:
        raise ParamsError("--group", [f"{name!r}: write {', '.join(MORE)}"])
    arms: dict[str, list[tuple[str, str | None]]] = {
        "main": [(arm, None) for arm in grid.main],
        "further": [(arm, None) for arm in grid.further],
        "grid": [(arm, None) for arm in grid.grid],
        "long": [(arm, None) for arm in grid.long],
        "worlds": [(arm, world) for world in grid.worlds for arm in grid.world_arms],
    }
    return [Cell(arm, seed, world, MORE[name]) for arm, world in arms[name]]


def every_cell() -> list[Cell]:
    """Every cell of the grid; raises ParamsError."""
    seeds = read_grid().seeds
    return [
        cell
        for name in MORE
        for seed in (seeds if name in EVERY_SEED else (1,))
        for cell in group(name, seed)
    ]


def read_grid() -> Grid:
    """params/grid.yaml; raises ParamsError with everything that is wrong."""
    if not GRID.is_file():
        raise ParamsError(
            str(GRID),
            ["there is no such file: ablations are run in a clone of AFD; type this there"],
        )
    try:
        values = read_yaml(GRID)
    except UnreadableYamlError as error:
        raise ParamsError(str(GRID), [str(error)]) from None
    grid = validate(Grid, values, str(GRID))
    problems: list[str] = []
    for field, names in grid.model_dump(exclude={"seeds"}).items():
        absent = [n for n in names if not (ABLATIONS / f"{n}.yaml").is_file()]
        problems += [f"{field}: {n!r} has no file {ABLATIONS / n}.yaml" for n in absent]
        problems += [f"{field}: {n!r} stands there twice" for n in {*names} if names.count(n) > 1]
    if problems:
        raise ParamsError(str(GRID), problems)
    return grid


def play(
    cell: Cell, beside: Sequence[Cell], paths: CampaignPaths, cluster: Path, jobs: int
) -> bool:
    """Play what is not finished of `cell` and of the cells beside it; leave the cell's results.

    False when its campaign failed: its results then say so, and the others have been played. Raises
    UnplayedError when it was killed or paused, which is no result.
    """
    others = (other for other in beside if other != cell)
    wanted = [cell, *(other for other in others if not has_failed(other, paths))]
    logs = paths.runs / ".ablations"
    logs.mkdir(parents=True, exist_ok=True)
    left = [one for one in wanted if not is_finished(one, paths)]
    codes = dict(played(left, paths, cluster, jobs))
    found = result_here(cell, paths)
    if found is None:
        raise UnplayedError(
            f"{cell.campaign} came to no end, exit code {codes.get(cell)} (a signal: below 0); "
            f"what it has computed is kept, type the same command again\n{_why(cell, paths)}"
        )
    is_done = found.status != FAILED
    save_cell(RESULTS, found, curves(cell, Store(paths.store)) if is_done else None)
    return is_done


def result_here(cell: Cell, paths: CampaignPaths) -> CellResult | None:
    """Return the result of a cell from the store; None for one that has not finished."""
    store = Store(paths.store)
    evaluation = final_evaluation(cell.params(), store)
    if evaluation is not None and store.have(evaluation):
        return _result(cell, store, evaluation)
    if not has_failed(cell, paths):
        return None
    return CellResult(cell.name, cell.arm, cell.world, cell.seed, FAILED, _why(cell, paths))


def _why(cell: Cell, paths: CampaignPaths) -> str:
    return log_tail(str(paths.runs / ".ablations" / f"{cell.name}.log"))


def is_finished(cell: Cell, paths: CampaignPaths) -> bool:
    """Return whether its campaign has finished and its results are in the store."""
    left = paths.runs / cell.campaign / "summary.json"
    params, store = cell.params(), Store(paths.store)
    final = final_evaluation(params, store)
    if not left.exists() or final is None or not store.have(final):
        return False
    longer = horizon_evaluation(params, store)
    return longer is None or store.have(longer)


def _has_begun(cell: Cell, paths: CampaignPaths) -> bool:
    """Return whether its campaign is here with the same params."""
    try:
        return saved_params(paths.runs / cell.campaign) == cell.params()
    except ParamsError:
        return False


def has_failed(cell: Cell, paths: CampaignPaths) -> bool:
    """Return whether its campaign failed: other cells do not play it once more."""
    last = read_last_command(paths.runs / cell.campaign)
    return last is not None and last.state == "failed"


def played_elsewhere(cell: Cell, paths: CampaignPaths) -> LockHolder | None:
    """Return the other process that runs its campaign.

    A campaign of a killed `dvc repro` goes on, and is waited for.
    """
    return holder_of(paths.runs / cell.campaign)


def final_evaluation(params: Params, store: Store) -> ArtifactRef | None:
    """Return the final evaluation's reference; None where alarms steer and rounds are missing."""
    try:
        state = final_state(params, store)
    except NotComputedError:
        return None
    return play_final(DryRunStages(), params, state)[0]


def horizon_evaluation(params: Params, store: Store) -> ArtifactRef | None:
    """Return the evaluation on longer clips, None where the params name none."""
    if params.evaluate.horizon is None:
        return None
    return play_horizon(DryRunStages(), params, final_state(params, store))


def curves(cell: Cell, store: Store) -> pd.DataFrame:
    """Return the numbers after each round, the base first; a round without one has none."""
    params = cell.params()
    state = final_state(params, store)
    rows: list[dict[str, Any]] = [{"round": 0, "num_rollouts": 0}]
    for index, made in enumerate(state.rounds):
        rollouts = (
            params.rollout.num_prompts * params.rollout.group_size if "rollouts" in made else 0
        )
        row = {"round": index + 1, "num_rollouts": rows[-1]["num_rollouts"] + rollouts}
        for role, names in CURVES.items():
            if role in made and store.have(made[role]):
                summary = store.load(made[role]).manifest.summary
                row |= {name: summary[name] for name in names if name in summary}
        rows.append(row)
    if state.rounds and store.have(first := state.rounds[0]["evaluation"]):
        measured = json.loads(store.load(first).file("summary.json").read_bytes())["metrics"]
        rows[0] |= {name: measured[name]["base"] for name in CURVES["evaluation"]}
    names = [name for of_role in CURVES.values() for name in of_role]
    return pd.DataFrame(rows, columns=["round", "num_rollouts", *names])


def _result(cell: Cell, store: Store, evaluation: ArtifactRef) -> CellResult:
    made, params = store.load(evaluation), cell.params()
    longer = horizon_evaluation(params, store)
    return CellResult.of(
        cell.name, cell.arm, cell.world, cell.seed,
        summary=made.file("summary.json"), card=made.file("card.json"),
        table=made.file("per_prompt.parquet"),
        horizon=store.load(longer).file("summary.json") if longer and store.have(longer) else None,
    )  # fmt: skip


def played(
    cells: Iterable[Cell], paths: CampaignPaths, cluster: Path, jobs: int
) -> Iterator[tuple[Cell, int]]:
    """Campaigns as processes of their own, `jobs` at a time, and how each ended.

    They die with this process, so a killed `dvc repro` leaves nothing behind but checkpoints.
    """
    waiting = list(cells)
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    reported: set[Cell] = set()
    num_rounds = {cell.name: cell.params().num_rounds for cell in waiting}
    goes_on = [cell.name for cell in waiting if _has_begun(cell, paths)]
    progress = GroupProgress(num_rounds, paths.runs, jobs, goes_on)
    progress.begin(waiting)
    try:
        while waiting or running:
            for cell in list(waiting):
                if len(running) == jobs:
                    break
                if (holder := played_elsewhere(cell, paths)) is not None:
                    if cell not in reported:
                        sys.stderr.write(f"{cell.campaign}: waits for {holder}, who plays it\n")
                        reported.add(cell)
                    continue
                waiting.remove(cell)
                if not is_finished(cell, paths):
                    progress.started(cell)
                    running[cell] = _start(cell, paths, cluster)
            for cell, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[cell]
                    progress.ended(cell, code)
                    yield cell, code
            progress.tick(running, waiting)
            time.sleep(POLL_S)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()


def _start(cell: Cell, paths: CampaignPaths, cluster: Path) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable, "-m", "flows.cli", "campaign", "--name", cell.campaign, "--no-prefect",
        "--set-aside",  # dvc plays a cell again because its params are others
        "--params", str(POCKET), *(f"--overlay={overlay}" for overlay in cell.overlays),
        *(f"--set={setting}" for setting in (f"seed={cell.seed}", *cell.settings)),
        "--runs", str(paths.runs), "--store", str(paths.store), "--cluster", str(cluster),
    ]  # fmt: skip
    if cluster.name == "local.yaml":  # a process is a campaign: no worker beside it
        command += ["--set-cluster", "executor=in_process"]
    log = paths.runs / ".ablations" / f"{cell.name}.log"
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 (one C call, no lock)
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
