"""Discriminators of other packages."""

import torch
from torch import Generator, nn

from afd.config.discriminators import PluginDiscriminator
from afd.discriminators.discriminator import Discriminator, Setting, TextEncoder
from afd.plugins import PluginError, check_members, load_factory

FIELD = "discriminator.factory"
MEMBERS = ("precision", "penalty_step", "micro_batch", "read", "see", "score")


class PluginModule(nn.Module, Discriminator):
    """An nn.Module with the members of Discriminator: what a plugin returns."""


def build(
    params: PluginDiscriminator, setting: Setting, encode: TextEncoder, generator: Generator
) -> PluginModule:
    """Return `factory(options, setting, encode)`; torch's own random state is set by `generator`.

    Raises PluginError when the plugin is missing, cannot be imported or returns something else.
    """
    factory = load_factory(FIELD, params.factory)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.default_generator.manual_seed(seed)
        model = factory(dict(params.options), setting, encode)
    if not isinstance(model, nn.Module):
        raise PluginError(
            f"{FIELD}: {params.factory} returned {type(model).__name__}, no torch.nn.Module; "
            "docs/extending.md shows what it needs"
        )
    check_members(FIELD, params.factory, model, MEMBERS)
    return model  # pyright: ignore[reportReturnType] (checked by its members)
