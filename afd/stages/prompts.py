"""Stage `prompts`: the sentences of a campaign, split into train and held-out."""

from pathlib import Path
from typing import Any

from afd.artifacts import Artifact
from afd.data.prompts import compose, read_jsonl, to_jsonl
from afd.stages.workspace import Workspace
from afd.store import Store

PROMPTS = "prompts.jsonl"


def run(
    params: dict[str, Any], inputs: dict[str, Artifact], store: Store, work: Workspace
) -> dict[str, float | int | str | None]:
    """Leaves prompts.jsonl. Raises PromptsError with every problem of a file at once."""
    chosen = params["prompts"]
    if chosen["kind"] == "grammar":
        prompts = compose(chosen["num_held_out"])
    else:
        prompts = read_jsonl(Path(chosen["path"]), chosen["num_held_out"])
    (work.out / PROMPTS).write_bytes(to_jsonl(prompts))
    num_held_out = sum(prompt.split == "held_out" for prompt in prompts)
    return {"num_prompts": len(prompts), "num_held_out": num_held_out}
