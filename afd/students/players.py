"""Everybody whose velocity enters the loss of an update, each from the weights that it has on disk.

A student that trains all its weights is four networks. One that trains a LoRA is one network with
adapters, and who plays is switched between passes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from afd.config import CausalWanParams
from afd.students.checkpoint import Loaded, Which, describe, load_student, save_student
from afd.students.strict import CheckpointError, load_strictly, weights_sha256
from afd.students.student import AnyStudent


@dataclass(frozen=True)
class Players:
    """The student, and those it is held against."""

    student: AnyStudent  # in training
    weights: nn.Module  # what trains of it: an optimiser's, an average's, a file's
    average: nn.Module  # the moving average of `weights`
    behaviour: AnyStudent  # made the rollouts: v_old
    reference: AnyStudent  # before any round: v_ref
    behaviour_sha256: Callable[[], str]  # of its trained weights in memory
    loaded: Loaded

    def shard(self) -> None:
        """Share out what is frozen over the ranks of this process group (afd.students.sharding)."""
        from afd.students.sharding import sharded

        assert isinstance(self.student, nn.Module)  # params refuse those that train all weights
        sharded(self.student)

    def save(self, folder: Path) -> None:
        """Leave student and average in an artifact's folder."""
        is_whole = isinstance(self.loaded.params, CausalWanParams)
        save_student(
            folder, self.weights, self.average, self.loaded.codec, self.student.geometry,
            self.loaded.params, start=None if is_whole else self.loaded.start,
        )  # fmt: skip


def gather(
    student: Path,
    behaved: tuple[Path, Which],
    reference: Path,
    *,
    gradient_checkpointing: bool = False,
    compile_blocks: bool = False,
) -> Players:
    """The players out of their StudentWeights folders; `behaved` made the rollouts.

    Raises CheckpointError for weights that do not fit or parts of different starts.
    """
    loaded = load_student(student, "student")
    network = loaded.student
    players = _whole(loaded, student, behaved, reference)
    if players is None:
        players = _adapted(loaded, student, behaved, reference)
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[attr-defined]
    if compile_blocks:
        network.compile_repeated_blocks()  # type: ignore[attr-defined]
    return players


def _whole(
    loaded: Loaded, student: Path, behaved: tuple[Path, Which], reference: Path
) -> Players | None:
    """Four networks; None for a student that trains a LoRA."""
    if not isinstance(loaded.params, CausalWanParams):
        return None
    network = loaded.student
    assert isinstance(network, nn.Module)
    average = load_student(student, "average").student
    behaviour = load_student(*behaved)
    held = load_student(reference, "average").student
    for module in (behaviour.student, held):
        module.requires_grad_(False)  # type: ignore[attr-defined]
    assert isinstance(average, nn.Module)
    return Players(
        student=network.train(),  # type: ignore[arg-type]
        weights=network,
        average=average,
        behaviour=behaviour.student,
        reference=held,
        behaviour_sha256=behaviour.weights_sha256,
        loaded=loaded,
    )


def _adapted(
    loaded: Loaded, student: Path, behaved: tuple[Path, Which], reference: Path
) -> Players:
    """One network: the student's adapter trains, the behaviour's is a copy of what rolled out."""
    from afd.students import lora, published

    assert not isinstance(loaded.params, CausalWanParams)
    network = loaded.student
    assert isinstance(network, published.MODELS)
    for folder in (behaved[0], reference):
        if (start := describe(folder).start) != loaded.start:
            raise CheckpointError(
                f"{folder} builds on {start.name}, the student on {loaded.start.name}: they are of "
                "different starts and cannot share a network"
            )
    folder, which = behaved
    file = folder / f"{which}.safetensors"
    behaviour = published.give(network, loaded.params, "behaviour", load_file(file), str(file))
    held = lora.Playing(network, None)
    if reference != loaded.start:
        file = reference / "average.safetensors"
        published.give(network, loaded.params, "reference", load_file(file), str(file))
        held = lora.Playing(network, "reference")
    network.train()
    lora.activate(network, "student", trains=True)
    weights = lora.trained_weights(network, "student")
    average = copy.deepcopy(weights).requires_grad_(False)
    file = student / "average.safetensors"
    load_strictly(average, load_file(file), str(file))
    return Players(
        student=network,
        weights=weights,
        average=average,
        behaviour=lora.Playing(network, "behaviour"),
        reference=held,
        behaviour_sha256=lambda: weights_sha256(behaviour.state_dict()),
        loaded=loaded,
    )
