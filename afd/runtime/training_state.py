"""Everything a training stage must keep to go on bit for bit, as one flat dict of tensors.

Names are `<module>/<parameter>` and `<optimiser>/<parameter>/<moment>`; no pickle, any order of
parameters. Randomness needs no state: draws are keyed by step (afd.seeds).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class WeightsError(ValueError):
    """Saved tensors that do not fit what they are restored into."""


def own_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state; of one that is partly frozen (LoRA, heads) only what trains is its own."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    state = module.state_dict()
    if not trained or len(trained) == sum(1 for _ in module.parameters()):
        return state
    return {name: value for name, value in state.items() if name in trained}


def module_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's own state as `<name>/<parameter>`, detached and contiguous."""
    return {
        f"{name}/{key}": value.detach().contiguous().clone()
        for key, value in own_state(module).items()
    }


def restore_module(name: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `module_tensors`, strictly."""
    prefix = f"{name}/"
    own = {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
    wanted = own_state(module)
    if own.keys() != wanted.keys():
        raise WeightsError(
            f"{name}: saved and present tensors differ: {sorted(own.keys() ^ wanted.keys())[:5]}"
        )
    module.load_state_dict(own, strict=len(wanted) == len(module.state_dict()))


def optimiser_tensors(name: str, module: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments by the names of the parameters they belong to."""
    return {
        f"{name}/{parameter_name}/{moment}": torch.as_tensor(value).detach().contiguous().clone()
        for parameter_name, parameter in module.named_parameters()
        for moment, value in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    name: str, module: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimiser_tensors`; the optimiser must be over the module's parameters."""
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        if not key.startswith(f"{name}/"):
            continue
        parameter_name, moment = key.removeprefix(f"{name}/").rsplit("/", 1)
        if parameter_name not in parameters:
            raise WeightsError(f"{name}: {parameter_name} is no parameter of this module")
        parameter = parameters[parameter_name]
        # As Optimizer.load_state_dict does: a step is counted on the host, moments lie where
        # their parameter does. Files are read on the host, and a network may be on a GPU.
        place = value.device if moment == "step" else parameter.device
        optimiser.state[parameter][moment] = value.to(place, copy=True)


@dataclass(frozen=True)
class Training:
    """What a training stage changes and must keep: modules by name, and the optimiser of `own`."""

    own: str
    modules: Mapping[str, nn.Module]
    optimiser: Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint."""
        kept: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            kept |= module_tensors(name, module)
        return kept | optimiser_tensors("optimiser", self.modules[self.own], self.optimiser)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, strictly."""
        for name, module in self.modules.items():
            restore_module(name, module, tensors)
        restore_optimiser("optimiser", self.modules[self.own], self.optimiser, tensors)
