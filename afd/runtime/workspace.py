"""Workspace of one attempt at a stage: artifact files, metrics, progress and checkpoints.

    <work>/progress.json             for people; never read by a stage
    <work>/damaged/                  checkpoints that did not load, until the stage is done
    <work>/batches/                  finished batches of a splittable stage (parts.py)
    <work>/attempts/0001/out/        becomes the artifact; metrics.jsonl is its learning curve
    <work>/attempts/0001/checkpoints/  step-<step>-<sha256[:16]>.safetensors, the last two

A kill at any moment leaves a checkpoint that loads or the one before it; metrics are cut back to
the checkpoint, so a replayed step has one line. An attempt reads the files of earlier ones and
writes to its own folder alone: a lost attempt that still runs disturbs no other.
"""

import contextlib
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
from afd.runtime.parts import add_notice, show_progress
from afd.runtime.ranks import ALONE, Ranks
from afd.runtime.request import StageRequest
from afd.runtime.stage_log import StepLog
from afd.runtime.tensor_files import read_tensors, write_tensors
from afd.store import Store, StoreError, disk_error, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

NUM_CHECKPOINTS = 2  # the newest, and the one before it in case the newest does not load
PROGRESS_PERIOD_S = 0.5
# Lost work at a kill against 30 MB written per pocket checkpoint (0.1 s); results do not depend on
# it. Tests set AFD_CHECKPOINT_PERIOD_S=0 to have one after every step.
CHECKPOINT_PERIOD_S = 20.0
FIRST_SHARE = 0.25  # of the period: a stage that is requeued early and often must advance
MAX_SAVING_SHARE = 0.05  # of the time, when saving is slow (10 GB take a minute)
METRICS = "metrics.jsonl"


class Workspace:
    """Folders of one attempt, with its metrics, progress and checkpoints."""

    def __init__(
        self, attempt: Attempt, ranks: Ranks = ALONE, num_parts: int | None = None
    ) -> None:
        self.attempt = attempt
        self.ranks = ranks
        self._num_parts = num_parts  # that computed the batches; None: this process does
        self.path = attempt.work
        self.out = attempt.out
        self.checkpoints = attempt.folder / "checkpoints"
        self.resumed_from: int | None = None
        self._resumed: Path | None = None  # the checkpoint of an earlier attempt
        self._progress_at = 0.0
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
        """Return wall and CPU seconds of this attempt and of those it builds on."""
        wall, cpu = self._started
        return (
            self._spent_before[0] + time.monotonic() - wall,
            self._spent_before[1] + time.process_time() - cpu,
        )

    def batches(self, total: int, compute: Compute) -> list[Batch]:
        """Return every batch of a splittable stage: computed here, or gathered from its parts."""
        held = Batches(self.path)
        if self._num_parts is None:
            made = held.all(total, compute, self.progress)
        else:
            made = held.gathered(total, self._num_parts)
        self.add_spent(held.wall_s, held.cpu_s)
        return made

    def add_spent(self, wall_s: float, cpu_s: float) -> None:
        """Add the seconds that another process spent on results used here."""
        before = self._spent_before
        self._spent_before = (before[0] + wall_s, before[1] + cpu_s)

    # ---------------------------------------------------------------- metrics and progress

    def record(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Append a line to the learning curve; keys are `<stage>/<quantity>`."""
        self._log.measured(metrics)
        line = json.dumps({"step": step, **metrics})
        with (self.out / METRICS).open("a") as file:
            file.write(line + "\n")

    def progress(self, done: int, total: int) -> None:
        """Show progress, at most twice a second."""
        signals.show_life()
        if self.ranks.is_first:
            self._log.reached(done, total)
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_PERIOD_S and done < total:
            return
        self._progress_at = now
        show_progress(self.path, done, total)

    # ---------------------------------------------------------------- checkpoints

    def checkpoint_due(self) -> bool:
        """Return True when the pause since the last checkpoint is over."""
        return time.monotonic() - self._saved_at >= self._pause_s

    def checkpoint(
        self, step: int, tensors: Mapping[str, "Tensor"], meta: Mapping[str, Any]
    ) -> bool:
        """Save `step` atomically.

        Return False when the disk is full: the checkpoint before stays, and training may go on.
        Raises LostError when a later attempt has begun.
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
        """Load the newest whole checkpoint as (step, tensors, meta); None on a first attempt.

        Raises StoreError when there are checkpoints and none of them loads: a person decides to
        train from the start again.
        """
        saved = _checkpoints(self.path)
        damaged: list[Path] = []
        for file in saved:
            loaded = read_tensors(file)
            if loaded is None:
                sys.stderr.write(f"warning: {file} is damaged; going on from the one before it\n")
                damaged.append(file)
                continue
            note, tensors = loaded
            self.resumed_from, self._resumed = int(note["step"]), file
            self.add_spent(float(note["wall_s"]), float(note["cpu_s"]))
            self._take_metrics(file.parents[1] / "out" / METRICS, self.resumed_from)
            sys.stderr.write(f"resumed from step {self.resumed_from} ({file.name})\n")
            self._set_aside(damaged, self.resumed_from)
            return self.resumed_from, tensors, note["meta"]
        if saved:
            raise StoreError(
                f"{self.path}: none of the {len(saved)} checkpoints loads "
                f"({', '.join(file.name for file in saved)}); finished artifacts are untouched. "
                f"Restore the files, or `rm -r {self.path / 'attempts'}` to start this stage afresh"
            )
        return None

    def _set_aside(self, damaged: list[Path], step: int) -> None:
        """Move damaged checkpoints out of the way, and leave a notice of each."""
        aside = self.path / "damaged"
        for file in damaged:
            with contextlib.suppress(OSError):  # gone, or a full disk: it stays where it is
                aside.mkdir(exist_ok=True)
                file.rename(aside / file.name)
                add_notice(
                    self.path,
                    f"checkpoint {file.name} is damaged: the stage goes on from step {step}, with "
                    "the same result; the damaged file is kept until the stage is done, in "
                    f"{aside}",
                )

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
            last = [file.name for file in _checkpoints(self.path)[:1]]
            sys.stderr.write(
                f"warning: step {step} could not be kept, the disk is full: free some space. "
                f"Training goes on; kept is {last[0] if last else 'no earlier step'}\n"
            )
            return False
        return True

    def _prune(self) -> None:
        """Keep the newest two checkpoints; the one resumed from stays until there are two."""
        own = sorted(self.checkpoints.glob("step-*.safetensors"), reverse=True)
        for old in own[NUM_CHECKPOINTS:]:
            old.unlink()
        keep = self._resumed if len(own) < NUM_CHECKPOINTS else None
        for number in range(1, self.attempt.number):
            earlier = Attempt(self.path, number).folder
            if earlier.exists() and (keep is None or earlier not in keep.parents):
                shutil.rmtree(earlier, ignore_errors=True)

    def _take_metrics(self, file: Path, last_step: int) -> None:
        """Copy an earlier curve up to `last_step`, without a line cut short by a kill."""
        if not file.exists():
            return
        lines = file.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        curve = b"".join(line for line in whole if json.loads(line)["step"] <= last_step)
        if curve:
            write_atomic(self.out / METRICS, curve)


def reached(store: Store, request: StageRequest) -> frozenset[str]:
    """Return the names of all saved checkpoints and batches: the progress of all attempts."""
    work = store.work_path(request.output)
    return frozenset(
        file.name for file in [*_checkpoints(work), *(work / "batches").glob("[0-9]*")]
    )


def _checkpoints(work: Path) -> list[Path]:
    """Return the checkpoints of all attempts, the last step first, then the latest attempt."""
    found = work.glob("attempts/*/checkpoints/step-*.safetensors")
    return sorted(found, key=lambda file: (file.name[:13], file.parts[-3]), reverse=True)
