"""Where one attempt at a stage works: files of the artifact, metrics, progress and checkpoints.

    <work>/out/                 becomes the artifact; out/metrics.jsonl is its learning curve
    <work>/checkpoints/         step-<step>-<sha256[:16]>.safetensors, the last two
    <work>/progress.json        what a person watches; never read by a stage

A kill at any moment leaves a checkpoint that loads or the one before it; metrics are cut back to
the checkpoint, so what a replay writes again is never there twice.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afd.failpoints import failpoint
from afd.store import StoreError, sync_folder, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

NUM_KEPT = 2  # the newest, and the one before it in case the newest does not load
PROGRESS_PERIOD_S = 0.5
# Lost work at a kill against 30 MB written per pocket checkpoint (0.1 s); results do not depend on
# it. Tests set AFD_CHECKPOINT_PERIOD_S=0 to have one after every step.
CHECKPOINT_PERIOD_S = 20.0
METRICS = "metrics.jsonl"


class Workspace:
    """The work folder of one artifact, handed to a stage by the door."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.out = self.path / "out"
        self.checkpoints = self.path / "checkpoints"
        self.resumed_from: int | None = None
        self._told_at = 0.0
        self._period_s = float(os.environ.get("AFD_CHECKPOINT_PERIOD_S", CHECKPOINT_PERIOD_S))
        self._saved_at = time.monotonic()
        self._started = (time.monotonic(), time.process_time())
        self._spent_before = (0.0, 0.0)  # by the attempts that led to the checkpoint

    def prepare(self) -> None:
        """Start clean: of an earlier attempt only its checkpoints and their metrics stay."""
        keep = METRICS if self._saved() else None
        self.out.mkdir(parents=True, exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        for left in self.out.iterdir():
            if left.name == keep:
                continue
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        for left in self.checkpoints.glob(".*.tmp"):
            left.unlink()

    def spent(self) -> tuple[float, float]:
        """Wall and CPU seconds of this attempt and of the attempts it goes on from."""
        wall, cpu = self._started
        return (
            self._spent_before[0] + time.monotonic() - wall,
            self._spent_before[1] + time.process_time() - cpu,
        )

    # ---------------------------------------------------------------- what people look at

    def record(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """One line of the learning curve, flushed at once; keys are `<stage>/<quantity>`."""
        line = json.dumps({"step": step, **metrics})
        with (self.out / METRICS).open("a") as file:
            file.write(line + "\n")

    def progress(self, done: int, total: int) -> None:
        """How far it is, at most twice a second."""
        now = time.monotonic()
        if now - self._told_at < PROGRESS_PERIOD_S and done < total:
            return
        self._told_at = now
        temporary = self.path / f".progress.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({"done": done, "total": total}))
        temporary.rename(self.path / "progress.json")

    # ---------------------------------------------------------------- going on after a kill

    def checkpoint_due(self) -> bool:
        """Whether enough work has been done since the last checkpoint to be worth another."""
        return time.monotonic() - self._saved_at >= self._period_s

    def checkpoint(
        self, step: int, tensors: Mapping[str, "Tensor"], meta: Mapping[str, Any]
    ) -> None:
        """Make `step` a place to go on from: all of it on disk, or nothing of it visible."""
        from safetensors.torch import save_file

        metrics = self.out / METRICS
        if metrics.exists():  # a checkpoint never outlives the metrics that led to it
            with metrics.open("rb") as file:
                os.fsync(file.fileno())
        wall_s, cpu_s = self.spent()
        note = {"step": step, "meta": dict(meta), "wall_s": wall_s, "cpu_s": cpu_s}
        temporary = self.checkpoints / f".step-{step:08d}.{os.getpid()}.tmp"
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"afd": json.dumps(note, allow_nan=False)},
        )
        digest = _digest(temporary, sync=True)
        failpoint("checkpoint.before_rename")
        temporary.rename(self.checkpoints / f"step-{step:08d}-{digest[:16]}.safetensors")
        sync_folder(self.checkpoints)
        failpoint("checkpoint.after_rename")
        self._saved_at = time.monotonic()
        for old in self._saved()[NUM_KEPT:]:
            old.unlink()

    def resume(self) -> tuple[int, dict[str, "Tensor"], dict[str, Any]] | None:
        """The newest checkpoint that loads, as (step, tensors, meta); None on a first attempt.

        Raises StoreError when there are checkpoints and none of them loads: training again from the
        start is a person's decision.
        """
        saved = self._saved()
        for file in saved:
            loaded = _load(file)
            if loaded is None:
                sys.stderr.write(f"warning: {file} is damaged; going on from the one before it\n")
                continue
            note, tensors = loaded
            self.resumed_from = int(note["step"])
            self._spent_before = (float(note["wall_s"]), float(note["cpu_s"]))
            self._cut_metrics(self.resumed_from)
            sys.stderr.write(f"resumed from step {self.resumed_from} ({file.name})\n")
            return self.resumed_from, tensors, note["meta"]
        if saved:
            raise StoreError(
                f"{self.checkpoints}: none of the {len(saved)} checkpoints loads "
                f"({', '.join(file.name for file in saved)}); finished artifacts are untouched. "
                f"Restore the files, or `rm -r {self.checkpoints}` to start this stage afresh"
            )
        self._cut_metrics(-1)
        return None

    def _saved(self) -> list[Path]:
        """Checkpoints, newest first."""
        return sorted(self.checkpoints.glob("step-*.safetensors"), reverse=True)

    def _cut_metrics(self, last_step: int) -> None:
        """Keep the lines up to `last_step`; a line cut short by a kill goes too."""
        file = self.out / METRICS
        if not file.exists():
            return
        lines = file.read_bytes().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        kept = b"".join(line for line in whole if json.loads(line)["step"] <= last_step)
        if kept:
            write_atomic(file, kept)
        else:
            file.unlink()


def _load(file: Path) -> tuple[dict[str, Any], dict[str, "Tensor"]] | None:
    """A checkpoint's note and tensors, or None when its bytes are not what its name says."""
    from safetensors import safe_open

    if _digest(file)[:16] != file.stem.rsplit("-", 1)[-1]:
        return None
    with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return json.loads(opened.metadata()["afd"]), tensors


def _digest(file: Path, *, sync: bool = False) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        if sync:
            os.fsync(stream.fileno())
    return digest.hexdigest()
