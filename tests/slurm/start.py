"""A student and teacher clips to start from, and what one process makes of them."""

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from afd.config import Params
from afd.params import load_params
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store

PARAMS = Path(__file__).parents[2] / "params" / "tiny.yaml"
OVERRIDES = ("rollout.batch_size=4", "rollout.num_prompts=5", "fit.num_steps=40")  # 5 batches


@dataclass(frozen=True)
class Start:
    """The middle of a round."""

    store: Store  # before it
    whole: Store  # and after, computed by one process
    rollout: StageRequest
    fit: StageRequest
    update: StageRequest


def make_start(folder: Path) -> Start:
    params = load_params(Params, PARAMS, (), OVERRIDES)
    store, whole = Store(folder / "store"), Store(folder / "whole")
    prompt_set = execute(requests.prompts(params), store).ref
    student = execute(requests.warmstart(params, prompt_set), store).ref
    clips = execute(requests.harvest_round(params, prompt_set, 0), store).ref
    shutil.copytree(store.root, whole.root)
    rollout = requests.rollout(params, prompt_set, student, 0)
    rollouts = execute(rollout, whole).ref
    fit = requests.fit(params, [clips], [rollouts], None, 0)
    judge = execute(fit, whole).ref
    update = requests.update(params, clips, rollouts, judge, student, student, 0)
    execute(update, whole)
    return Start(store, whole, rollout, fit, update)


def files(store: Store, request: StageRequest) -> dict[str, str]:
    """The content of an artifact, by hash."""
    return {n: e.sha256 for n, e in store.load(request.output).manifest.files.items()}


def doors(store: Store) -> list[psutil.Process]:
    """The processes that compute a stage of this store."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words: Sequence[str] = process.cmdline()
            if "afd.stages" in words and str(store.root) in words:
                found.append(process)
    return found
