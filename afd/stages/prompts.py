"""Stage `prompts`: the prompts of a campaign, split into train and held-out."""

import hashlib
from pathlib import Path
from typing import Any

from afd.artifacts import Artifact
from afd.prompts import compose, parse_jsonl, read_bytes, to_jsonl
from afd.runtime.outcome import RefusedError
from afd.runtime.workspace import Workspace
from afd.store import Store

PROMPTS = "prompts.jsonl"


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Write prompts.jsonl.

    Raises PromptsError with every problem of a file at once, RefusedError when the file has changed
    since the request was made.
    """
    chosen = params["prompts"]
    sizes = (chosen["num_held_out"], chosen["num_tuning"], chosen["num_train"])
    if chosen["kind"] == "grammar":
        prompts = compose(*sizes)
    else:
        path = Path(chosen["path"])
        content = read_bytes(path)
        found, wanted = hashlib.sha256(content).hexdigest(), str(chosen.get("sha256"))
        if found != wanted:
            raise RefusedError(
                f"prompts.path: {path} has changed since it was asked for: its sha256 is "
                f"{found[:16]}, not {wanted[:16]}; restore it, or choose another NAME"
            )
        prompts = parse_jsonl(content, str(path), *sizes)
    (work.out / PROMPTS).write_bytes(to_jsonl(prompts))
    num_held_out = sum(prompt.split == "held_out" for prompt in prompts)
    return {"num_prompts": len(prompts), "num_held_out": num_held_out}
