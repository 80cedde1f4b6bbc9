"""Training loop of a stage: resume, progress, checkpoints, stop.

Draws are keyed by step (afd.seeds), so a killed stage ends with the bits of an unbroken run.
"""

from collections.abc import Iterator

from afd import signals
from afd.failpoints import FailpointName, failpoint
from afd.runtime.outcome import StoppedError
from afd.runtime.training_state import Training
from afd.runtime.workspace import Workspace
from afd.store import StoreError

Tally = dict[str, int]
"""Counts that a checkpoint holds beside its tensors."""


def steps(
    work: Workspace, training: Training, span: range, passed: FailpointName, tally: Tally
) -> Iterator[int]:
    """Yield the remaining steps of `span`; first restore `training` and `tally`.

    After a stop signal the last step is saved and StoppedError raised, on every rank at once.
    """
    ranks = work.ranks
    first = span.start
    if checkpoint := ranks.broadcast_checkpoint(work.resume() if ranks.is_first else None):
        last, tensors, meta = checkpoint
        first = last + 1
        training.restore(tensors)
        tally |= meta
    signals.listen()
    for step in range(first, span.stop):
        yield step
        work.progress(step + 1 - span.start, len(span))
        if step + 1 < span.stop:
            if ranks.any(signals.stop_requested()):
                _leave(work, training, step, tally)
            if ranks.is_first and work.checkpoint_due():
                work.checkpoint(step, training.tensors(), tally)
        failpoint(passed)


def resumed_at(work: Workspace, span: range) -> int:
    """Return the number of steps of `span` that an earlier attempt had done."""
    return 0 if work.resumed_from is None else work.resumed_from + 1 - span.start


def _leave(work: Workspace, training: Training, step: int, tally: Tally) -> None:
    is_saved = work.ranks.is_first and work.checkpoint(step, training.tensors(), tally)
    if not work.ranks.any(is_saved):  # also a barrier: the first to leave must not end the others
        raise StoreError(
            f"{work.path}: told to stop, but step {step} could not be kept, the disk is full; free "
            "some space and run the same command again: it goes on from the step kept before"
        )
    raise StoppedError(f"told to stop: step {step} is kept in {work.path}")
