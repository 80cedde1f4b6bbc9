"""Where one attempt at a stage works: files of the artifact, metrics, progress and checkpoints.

    <work>/progress.json             what a person watches; never read by a stage
    <work>/batches/                  finished batches of a stage that can be split (parts.py)
    <work>/attempts/0001/out/        becomes the artifact; metrics.jsonl is its learning curve
    <work>/attempts/0001/checkpoints/  step-<step>-<sha256[:16]>.safetensors, the last two

A kill at any moment leaves a checkpoint that loads or the one before it; metrics are cut back to
the checkpoint, so what a replay writes again is never there twice. An attempt reads what earlier
ones left and writes to its own folder alone: one that goes on although it was given up for dead
disturbs nobody.
"""

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from afd import signals
from afd.attempts import Attempt
from afd.runtime.batches import Batch, Batches, Compute
from afd.runtime.parts import show_progress
from afd.runtime.ranks import ALONE, Ranks
from afd.runtime.request import StageRequest
from afd.runtime.stage_log import StepLog
from afd.runtime.tensor_files import read_tensors, write_tensors
from afd.store import Store, StoreError, disk_error, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

NUM_KEPT = 2  # the newest, and the one before it in case the newest does not load
PROGRESS_PERIOD_S = 0.5
# Lost work at a kill against 30 MB written per pocket checkpoint (0.1 s); results do not depend on
# it. Tests set AFD_CHECKPOINT_PERIOD_S=0 to have one after every step.
CHECKPOINT_PERIOD_S = 20.0
FIRST_SHARE = 0.25  # of the period: a stage that is requeued early and often must not stand still
MAX_SAVING_SHARE = 0.05  # of the time, when saving is slow (10 GB take a minute)
METRICS = "metrics.jsonl"


class Workspace:
    """What the door hands to a stage: the place where it works, and whether it may go on."""

    def __init__(
        self, attempt: Attempt, ranks: Ranks = ALONE, num_parts: int | None = None
    ) -> None:
        self.attempt = attempt
        self.ranks = ranks
        self._num_parts = num_parts  # who computed the batches; None: this very process does
        self.path = attempt.work
        self.out = attempt.out
        self.checkpoints = attempt.folder / "checkpoints"
        self.resumed_from: int | None = None
        self._resumed: Path | None = None  # the checkpoint of an earlier attempt
        self._told_at = 0.0
        self._log = StepLog("step")
        self._period_s = float(os.environ.get("AFD_CHECKPOINT_PERIOD_S", CHECKPOINT_PERIOD_S))
        self._pause_s = FIRST_SHARE * self._period_s
        self._saved_at = time.monotonic()
        self._started = (time.monotonic(), time.process_time())
        self._spent_before = (0.0, 0.0)  # by the attempts and parts that led here

    def prepare(self) -> None:
        """Make the attempt's own folders."""
        self.out.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)

    @property
    def own_wall_s(self) -> float:
        """Seconds of this attempt alone."""
        return time.monotonic() - self._started[0]

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds of this attempt and of all it builds on."""
        wall, cpu = self._started
        return (
            self._spent_before[0] + time.monotonic() - wall,
            self._spent_before[1] + time.process_time() - cpu,
        )

    def batches(self, total: int, compute: Compute) -> list[Batch]:
        """Every batch of a stage that can be split: computed here, or gathered from its parts."""
        held = Batches(self.path)
        if self._num_parts is None:
            made = held.all(total, compute, self.progress)
        else:
            made = held.gathered(total, self._num_parts)
        self.add_spent(held.wall_s, held.cpu_s)
        return made

    def add_spent(self, wall_s: float, cpu_s: float) -> None:
        """Seconds that another process has spent on what is used here."""
        before = self._spent_before
        self._spent_before = (before[0] + wall_s, before[1] + cpu_s)

    # ---------------------------------------------------------------- what people look at

    def record(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """One line of the learning curve, flushed at once; keys are `<stage>/<quantity>`."""
        self._log.measured(metrics)
        line = json.dumps({"step": step, **metrics})
        with (self.out / METRICS).open("a") as file:
            file.write(line + "\n")

    def progress(self, done: int, total: int) -> None:
        """How far it is, at most twice a second."""
        signals.show_life()
        if self.ranks.is_first:
            self._log.reached(done, total)
        now = time.monotonic()
        if now - self._told_at < PROGRESS_PERIOD_S and done < total:
            return
        self._told_at = now
        show_progress(self.path, done, total)

    # ---------------------------------------------------------------- going on after a kill

    def checkpoint_due(self) -> bool:
        """Whether enough work has been done since the last checkpoint to be worth another."""
        return time.monotonic() - self._saved_at >= self._pause_s

    def checkpoint(
        self, step: int, tensors: Mapping[str, "Tensor"], meta: Mapping[str, Any]
    ) -> bool:
        """Make `step` a place to go on from: all of it on disk, or nothing of it visible.

        False when the disk is full: the checkpoint before is kept, training may go on. Raises
        LostError when a later attempt has begun.
        """
        self.attempt.check()
        begun = time.monotonic()
        note = json.dumps({"step": step, "meta": dict(meta), **self._clock()}, allow_nan=False)
        is_saved = self._save(step, tensors, note)
        self._saved_at = time.monotonic()
        took_s = self._saved_at - begun
        self._pause_s = max(self._period_s, took_s / MAX_SAVING_SHARE) if self._period_s else 0.0
        if is_saved:
            self._prune()
        return is_saved

    def resume(self) -> tuple[int, dict[str, "Tensor"], dict[str, Any]] | None:
        """The newest checkpoint that loads, as (step, tensors, meta); None on a first attempt.

        Raises StoreError when there are checkpoints and none of them loads: training again from the
        start is a person's decision.
        """
        saved = _checkpoints(self.path)
        for file in saved:
            loaded = read_tensors(file)
            if loaded is None:
                sys.stderr.write(f"warning: {file} is damaged; going on from the one before it\n")
                continue
            note, tensors = loaded
            self.resumed_from, self._resumed = int(note["step"]), file
            self.add_spent(float(note["wall_s"]), float(note["cpu_s"]))
            self._take_metrics(file.parents[1] / "out" / METRICS, self.resumed_from)
            sys.stderr.write(f"resumed from step {self.resumed_from} ({file.name})\n")
            return self.resumed_from, tensors, note["meta"]
        if saved:
            raise StoreError(
                f"{self.path}: none of the {len(saved)} checkpoints loads "
                f"({', '.join(file.name for file in saved)}); finished artifacts are untouched. "
                f"Restore the files, or `rm -r {self.path / 'attempts'}` to start this stage afresh"
            )
        return None

    def _clock(self) -> dict[str, float]:
        wall_s, cpu_s = self.spent()
        return {"wall_s": wall_s, "cpu_s": cpu_s}

    def _save(self, step: int, tensors: Mapping[str, "Tensor"], note: str) -> bool:
        metrics = self.out / METRICS
        if metrics.exists():  # a checkpoint never outlives the metrics that led to it
            with metrics.open("rb") as file:
                os.fsync(file.fileno())
        try:
            write_tensors(self.checkpoints, f"step-{step:08d}", tensors, note)
        except (OSError, SafetensorError) as error:
            if disk_error(error) not in (errno.ENOSPC, errno.EDQUOT):
                raise
            kept = [file.name for file in _checkpoints(self.path)[:1]]
            sys.stderr.write(
                f"warning: step {step} could not be kept, the disk is full: free some space. "
                f"Training goes on; kept is {kept[0] if kept else 'no earlier step'}\n"
            )
            return False
        return True

    def _prune(self) -> None:
        """Of this attempt the newest two stay; of earlier ones what it began with, until then."""
        own = sorted(self.checkpoints.glob("step-*.safetensors"), reverse=True)
        for old in own[NUM_KEPT:]:
            old.unlink()
        keep = self._resumed if len(own) < NUM_KEPT else None
        for number in range(1, self.attempt.number):
            earlier = Attempt(self.path, number).folder
            if earlier.exists() and (keep is None or earlier not in keep.parents):
                shutil.rmtree(earlier, ignore_errors=True)

    def _take_metrics(self, file: Path, last_step: int) -> None:
        """Go on with an earlier curve up to `last_step`; a line cut short by a kill goes too."""
        if not file.exists():
            return
        lines = file.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        kept = b"".join(line for line in whole if json.loads(line)["step"] <= last_step)
        if kept:
            write_atomic(self.out / METRICS, kept)


def reached(store: Store, request: StageRequest) -> frozenset[str]:
    """What attempts at an artifact have kept so far: one that leaves this unchanged got nowhere."""
    work = store.work_path(request.output)
    return frozenset(
        file.name for file in [*_checkpoints(work), *(work / "batches").glob("[0-9]*")]
    )


def _checkpoints(work: Path) -> list[Path]:
    """Of all attempts, the furthest first; of one step the latest attempt's."""
    found = work.glob("attempts/*/checkpoints/step-*.safetensors")
    return sorted(found, key=lambda file: (file.name[:13], file.parts[-3]), reverse=True)
