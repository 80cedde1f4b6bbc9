"""Fingerprint of semantic values: sha256 of canonical JSON, the identity of every artifact.

Only literal values that change a result go in; paths, cluster, device and log level never do. A
value that cannot be serialised in exactly one way is refused.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel


def canonical(value: Any, path: str = "$") -> Any:
    """Return the canonical form of `value`; raises TypeError or ValueError naming the path."""
    match value:
        case BaseModel():
            return canonical(value.model_dump(mode="python"), path)
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{path}: {value} has no identity; use a finite number or null")
            return value + 0.0  # -0.0 and 0.0 are one value
        case Mapping():
            mapping = cast("Mapping[Any, Any]", value)
            keys = [key for key in mapping if not isinstance(key, str)]
            if keys:
                raise TypeError(f"{path}: keys must be strings, got {keys[0]!r}")
            return {key: canonical(mapping[key], f"{path}.{key}") for key in sorted(mapping)}
        case list() | tuple():
            items = cast("Sequence[Any]", value)
            return [canonical(item, f"{path}[{index}]") for index, item in enumerate(items)]
        case _:
            raise TypeError(f"{path}: a {type(value).__name__} has no canonical form")


def fingerprint(value: Any) -> str:
    """Return the hex sha256 of the canonical JSON of `value`, equal on every machine."""
    text = json.dumps(canonical(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
