"""Training state of a stage as one flat dict of tensors, enough to go on bit for bit.

Names are `<module>/<parameter>` and `<optimiser>/<parameter>/<moment>`; no pickle, any order of
parameters. Randomness needs no state: draws are keyed by step (afd.seeds).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from afd.errors import InputError


class WeightsError(InputError):
    """Saved tensors that do not fit the module or optimiser."""


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state; of a partly frozen one (LoRA, heads) only what trains."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    state = module.state_dict()
    if not trained or len(trained) == sum(1 for _ in module.parameters()):
        return state
    return {name: value for name, value in state.items() if name in trained}


def module_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own state as `<name>/<parameter>`, detached and contiguous."""
    return {
        f"{name}/{key}": value.detach().contiguous().clone()
        for key, value in own_state(module).items()
    }


def restore_module(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore a module from `module_tensors`; raises WeightsError for other names."""
    prefix = f"{name}/"
    own = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
    wanted = own_state(module)
    if own.keys() != wanted.keys():
        raise WeightsError(
            f"{name}: saved and present tensors differ: {sorted(own.keys() ^ wanted.keys())[:5]}"
        )
    module.load_state_dict(own, strict=len(wanted) == len(module.state_dict()))


def optimiser_tensors(name: str, module: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's moments as `<name>/<parameter>/<moment>`."""
    return {
        f"{name}/{parameter_name}/{moment}": torch.as_tensor(value).detach().contiguous().clone()
        for parameter_name, parameter in module.named_parameters()
        for moment, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    name: str, module: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Restore an optimiser of the module's parameters from `optimiser_tensors`."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        if not key.startswith(f"{name}/"):
            continue
        parameter_name, moment = key.removeprefix(f"{name}/").rsplit("/", 1)
        if parameter_name not in parameters:
            raise WeightsError(f"{name}: {parameter_name} is no parameter of this module")
        parameter = parameters[parameter_name]
        # As Optimizer.load_state_dict does: `step` stays on the host, moments go to the device
        # of their parameter. Files are read on the host, and a network may be on a GPU.
        place = value.device if moment == "step" else parameter.device
        optimiser.state[parameter][moment] = value.to(place, copy=True)


@dataclass(frozen=True)
class Training:
    """State that a training stage changes: modules by name, and the optimiser of `own`."""

    own: str
    modules: Mapping[str, nn.Module]
    optimiser: Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors, for a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= module_tensors(name, module)
        return tensors | optimiser_tensors("optimiser", self.modules[self.own], self.optimiser)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore modules and optimiser from `tensors`; raises WeightsError."""
        for name, module in self.modules.items():
            restore_module(name, module, tensors)
        restore_optimiser("optimiser", self.modules[self.own], self.optimiser, tensors)
