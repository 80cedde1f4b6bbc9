"""Discriminators by kind: the one place that knows them all; each pays its own imports."""

from typing import TYPE_CHECKING, TypeAlias

from torch import Generator

from afd.config import Discriminator as DiscriminatorParams
from afd.discriminators.discriminator import Setting, TextEncoder

if TYPE_CHECKING:
    from afd.discriminators.conv import ConvDiscriminator
    from afd.discriminators.dit_features import DitFeatures
    from afd.discriminators.plugin import PluginModule
    from afd.discriminators.vlm import Vlm

AnyDiscriminator: TypeAlias = "ConvDiscriminator | Vlm | DitFeatures | PluginModule"


def build(
    params: DiscriminatorParams, setting: Setting, encode: TextEncoder, generator: Generator
) -> AnyDiscriminator:
    """Build a discriminator before its first step; `generator` alone sets what is fresh in it.

    Raises BackboneError naming the weights that are missing or do not fit, and where to put them.
    """
    match params.kind:
        case "conv":
            from afd.discriminators import conv

            return conv.build(params, setting, encode, generator)
        case "vlm":
            from afd.discriminators import vlm

            return vlm.build(params, setting, generator)
        case "dit_features":
            from afd.discriminators import dit_features

            return dit_features.build(params, setting, encode, generator)
        case "plugin":
            from afd.discriminators import plugin

            return plugin.build(params, setting, encode, generator)
