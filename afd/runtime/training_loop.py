"""The steps of a training stage: gone on with, shown, kept now and then, left when told to.

Draws are keyed by step (afd.seeds), so a stage killed anywhere ends as if it had never been.
"""

from collections.abc import Iterator

from afd import signals
from afd.failpoints import FailpointName, failpoint
from afd.runtime.outcome import StoppedError
from afd.runtime.training_state import Training
from afd.runtime.workspace import Workspace
from afd.store import StoreError

Tally = dict[str, int]
"""Counts that a stage keeps beside its tensors."""


def steps(
    work: Workspace, training: Training, span: range, passed: FailpointName, tally: Tally
) -> Iterator[int]:
    """The steps of `span` that are still to do, with `training` and `tally` as they were then.

    Raises StoppedError after a step that is kept, when told to stop; on every rank at once.
    """
    ranks = work.ranks
    first = span.start
    if kept := ranks.shared(work.resume() if ranks.is_first else None):
        last, tensors, meta = kept
        first = last + 1
        training.restore(tensors)
        tally |= meta
    signals.listen()
    for step in range(first, span.stop):
        yield step
        work.progress(step + 1 - span.start, len(span))
        if step + 1 < span.stop:
            if ranks.any(signals.is_told_to_stop()):
                _leave(work, training, step, tally)
            if ranks.is_first and work.checkpoint_due():
                work.checkpoint(step, training.tensors(), tally)
        failpoint(passed)


def resumed_at(work: Workspace, span: range) -> int:
    """How many steps of `span` an earlier attempt had done."""
    return 0 if work.resumed_from is None else work.resumed_from + 1 - span.start


def _leave(work: Workspace, training: Training, step: int, tally: Tally) -> None:
    is_kept = work.ranks.is_first and work.checkpoint(step, training.tensors(), tally)
    if not work.ranks.any(is_kept):  # also a barrier: whoever leaves first must not end the others
        raise StoreError(
            f"{work.path}: told to stop, but step {step} could not be kept, the disk is full; free "
            "some space and run the same command again: it goes on from the step kept before"
        )
    raise StoppedError(f"told to stop: step {step} is kept in {work.path}")
