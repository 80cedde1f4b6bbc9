"""Large pretrained networks from folders on this disk: found whole, or named with where they go.

Nothing is ever downloaded: every load is local_files_only, and what is missing is said first.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from afd import stored_dtypes
from afd.errors import InputError


class BackboneError(InputError):
    """Weights that are missing or do not fit: which, where, and what to do."""


def found(folder: str, needed: tuple[str, ...], field: str, what: str) -> Path:
    """`folder` as a path when every needed file is there; raises BackboneError naming the others.

    `needed` are glob patterns, e.g. "*.safetensors".
    """
    path = Path(folder)
    missing = [pattern for pattern in needed if not any(path.glob(pattern))]
    if not missing:
        with loading(field, path):
            weights = (pattern for pattern in needed if pattern.endswith(".safetensors"))
            for file in sorted(file for pattern in weights for file in path.glob(pattern)):
                refuse_packed(stored_dtypes.of_safetensors(file), file, field)
        return path
    problem = "is not there" if not path.is_dir() else f"holds no {', '.join(missing)}"
    raise BackboneError(
        f"{field}: {path} {problem}. Nothing is downloaded by itself: put {what} there (a folder "
        f"with {', '.join(needed)}), on a disk that every node sees, and run the same command "
        "again; everything finished is kept"
    )


@contextlib.contextmanager
def loading(field: str, path: Path) -> Iterator[None]:
    """Turn a library's errors about a folder that does not load into one BackboneError."""
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:  # a user's folder, and three libraries' choice of classes
        raise BackboneError(
            f"{field}: {path} does not load: {str(error)[:500]}. A copy that was cut short or of "
            "another architecture? Copy it anew and run the same command again"
        ) from error


def refuse_packed(dtypes: Mapping[str, str], source: Path, field: str) -> None:
    """Raise BackboneError for tensors that are no plain floats."""
    if packed := stored_dtypes.problem(dtypes, source, field):
        raise BackboneError(f"{field}: {packed}")


def refuse_unsound(
    field: str, path: Path, model: nn.Module, loading_info: Mapping[str, Any]
) -> None:
    """Raise BackboneError when tensors are missing, misshapen or not finite: none is made up.

    `loading_info` is that of transformers or diffusers.
    """
    problems = [f"missing {name}" for name in sorted(loading_info.get("missing_keys", ()))]
    problems += [
        f"misshapen {name}" for name in sorted(map(str, loading_info.get("mismatched_keys", ())))
    ]
    problems += [
        f"{name} holds NaN or infinity"
        for name, tensor in model.named_parameters()
        if not torch.isfinite(tensor).all()
    ]
    refuse(problems, f"{field}: {path}", "copy the folder anew")


def refuse(problems: list[str], source: str, cure: str) -> None:
    """Raise BackboneError listing what does not fit, if anything."""
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems[:20])
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise BackboneError(
            f"{source}: {len(problems)} tensor(s) cannot be used; nothing was loaded; {cure}\n"
            f"{lines}{more}"
        )
