"""JSON on stdout for `--json`: one document a command, whose keys docs/cli.md lists.

Keys stay; new ones may come. A number that is none (not estimable, infinite) is null.
"""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from flows.commands.output import can_print_unicode

Document = dict[str, Any]


def print_document(document: Mapping[str, Any]) -> None:
    """Print one JSON document to stdout."""
    text = json.dumps(_finite(document), indent=2, ensure_ascii=not can_print_unicode())
    sys.stdout.write(f"{text}\n")


def _finite(value: Any) -> Any:
    """Return `value` with null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value
