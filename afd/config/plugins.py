"""Values of a part that lives in another installed package."""

from typing import Annotated

from pydantic import Field, JsonValue

from afd.config.values import Section

FACTORY = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


class Plugin(Section):
    """A function of another package that returns the part."""

    factory: Annotated[str, Field(pattern=FACTORY, max_length=200)]
    """Function that returns the part, package.module:function; the source of its package is
    identity."""
    options: dict[str, JsonValue]
    """First argument of the function, as it is."""
