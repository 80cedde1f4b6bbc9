"""YAML files that people write: read with a bound, and with one error for all that can be wrong."""

from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import AliasEvent, YAMLError, parse

from afd.errors import InputError

LARGEST = 256 * 2**10  # bytes: read in 5 s; the longest file of params/ has 12 KB


class UnreadableYamlError(InputError):
    """A file that cannot be used as YAML; its text has the reason and a cure, not the name."""


def read_yaml(path: Path) -> Any:
    """Return the values of a YAML file, interpolations as they stand.

    Raises UnreadableYamlError, or FileNotFoundError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UnreadableYamlError(
                f"is larger than {LARGEST // 1024} KB, no YAML of params is; name another file"
            )
        return _values(content.decode())
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise UnreadableYamlError("is a folder; name a YAML file in it") from None
    except UnicodeDecodeError:
        raise UnreadableYamlError("is no text in UTF-8; name a YAML file") from None
    except OSError as error:
        raise UnreadableYamlError(f"cannot be read: {error.strerror or error}") from None


def plain_values(config: Any) -> Any:
    """Return the values of a config of OmegaConf as they stand; nothing is resolved."""
    return OmegaConf.to_container(config, resolve=False)


def yaml_problem(error: Exception) -> str:
    """Return in plain words why text is no usable YAML."""
    match error:
        case GrammarParseError(full_key=field):
            return f"{field}: interpolation is not allowed; write the literal value"
        case RecursionError():
            return "is nested too deeply; write it flatter"
        case _:
            hint = "; YAML is indented with spaces, not with tabs" if r"'\t'" in str(error) else ""
            text = str(error).replace('in "<file>", ', "at ")
            return f"cannot be read as YAML: {text}{hint}"


def _values(text: str) -> Any:
    try:
        if "*" in text and any(isinstance(event, AliasEvent) for event in parse(text)):
            problem = "aliases (*name) are not allowed: nine of them in nine lists fill the memory"
            raise UnreadableYamlError(f"{problem}; write the values out")
        return plain_values(OmegaConf.load(StringIO(text)))
    except UnreadableYamlError:
        raise
    # A ValueError is of a number of 5,000 digits, an OSError of a file that is one value.
    except (YAMLError, OmegaConfBaseException, RecursionError, ValueError, OSError) as error:
        raise UnreadableYamlError(yaml_problem(error)) from None
