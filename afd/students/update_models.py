"""Models whose velocities enter the loss of an update, each from its weights on disk.

A student that trains all its weights is four networks. One that trains a LoRA is one network with
adapters, and the active adapter is switched between passes.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from afd.config import is_published
from afd.students.checkpoint import LoadedStudent, WeightsName, describe, load_student, save_student
from afd.students.strict_loading import CheckpointError, load_strictly, weights_sha256
from afd.students.student import AnyStudent


@dataclass(frozen=True)
class UpdateModels:
    """The student in training, its average, the behaviour and the reference student."""

    student: AnyStudent  # in training
    weights: nn.Module  # its trained parameters, for optimiser, average and file
    average: nn.Module  # the moving average of `weights`
    behaviour: AnyStudent  # of the rollouts: v_old
    reference: AnyStudent  # before any round: v_ref
    behaviour_sha256: Callable[[], str]  # of its trained weights in memory
    loaded: LoadedStudent

    def shard(self) -> None:
        """Shard the frozen weights over this process group's ranks (afd.students.sharding)."""
        from afd.students.sharding import shard_frozen_weights

        assert isinstance(self.student, nn.Module)  # params refuse those that train all weights
        shard_frozen_weights(self.student)

    def save(self, folder: Path) -> None:
        """Write student and average into an artifact's folder."""
        loaded = self.loaded
        save_student(
            folder, self.weights, self.average, loaded.codec, self.student.geometry,
            loaded.params, start=loaded.start if is_published(loaded.params) else None,
        )  # fmt: skip


def load_update_models(
    student: Path,
    behaviour_weights: tuple[Path, WeightsName],
    reference: Path,
    *,
    gradient_checkpointing: bool = False,
    compile_blocks: bool = False,
) -> UpdateModels:
    """Load the models from their StudentWeights folders; `behaviour_weights` made the rollouts.

    Raises CheckpointError for weights that do not fit or parts of different starts.
    """
    loaded = load_student(student, "student")
    network = loaded.student
    make = _adapted if is_published(loaded.params) else _whole
    models = make(loaded, student, behaviour_weights, reference)
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[attr-defined]
    if compile_blocks:
        network.compile_repeated_blocks()  # type: ignore[attr-defined]
    return models


def _whole(
    loaded: LoadedStudent,
    student: Path,
    behaviour_weights: tuple[Path, WeightsName],
    reference: Path,
) -> UpdateModels:
    """Return four networks of a student that trains all its weights."""
    network = loaded.student
    assert isinstance(network, nn.Module)
    average = load_student(student, "average").student
    behaviour = load_student(*behaviour_weights)
    frozen_reference = load_student(reference, "average").student
    for module in (behaviour.student, frozen_reference):
        module.requires_grad_(False)  # type: ignore[attr-defined]
    assert isinstance(average, nn.Module)
    return UpdateModels(
        student=network.train(),  # type: ignore[arg-type]
        weights=network,
        average=average,
        behaviour=behaviour.student,
        reference=frozen_reference,
        behaviour_sha256=behaviour.weights_sha256,
        loaded=loaded,
    )


def _adapted(
    loaded: LoadedStudent,
    student: Path,
    behaviour_weights: tuple[Path, WeightsName],
    reference: Path,
) -> UpdateModels:
    """Return one network: the student's adapter trains, the behaviour's made the rollouts."""
    from afd.students import lora, published

    assert is_published(loaded.params)
    network = loaded.student
    assert isinstance(network, published.MODELS)
    for folder in (behaviour_weights[0], reference):
        if (start := describe(folder).start) != loaded.start:
            raise CheckpointError(
                f"{folder} builds on {start.name}, the student on {loaded.start.name}: they are of "
                "different starts and cannot share a network"
            )
    folder, which = behaviour_weights
    file = folder / f"{which}.safetensors"
    behaviour = published.add_trained_adapter(
        network, loaded.params, "behaviour", load_file(file), str(file)
    )
    frozen_reference = lora.AdapterView(network, None)
    if reference != loaded.start:
        file = reference / "average.safetensors"
        published.add_trained_adapter(
            network, loaded.params, "reference", load_file(file), str(file)
        )
        frozen_reference = lora.AdapterView(network, "reference")
    network.train()
    lora.activate(network, "student", trains=True)
    weights = lora.trained_weights(network, "student")
    average = copy.deepcopy(weights).requires_grad_(False)
    file = student / "average.safetensors"
    load_strictly(average, load_file(file), str(file))
    return UpdateModels(
        student=network,
        weights=weights,
        average=average,
        behaviour=lora.AdapterView(network, "behaviour"),
        reference=frozen_reference,
        behaviour_sha256=lambda: weights_sha256(behaviour.state_dict()),
        loaded=loaded,
    )
