"""The stages, and what the code of each is worth: part of every artifact's identity.

Raise a stage's number when a change of its code changes its result. What was made before then has
another name, and `dvc repro`, which watches this file, plays the ablations again.
"""

from typing import Literal

StageName = Literal[
    "prompts", "harvest", "warmstart", "rollout", "fit", "critic", "update", "evaluate", "report"
]
REVISION: dict[StageName, int] = {
    "prompts": 1,
    "harvest": 1,
    "warmstart": 1,
    "rollout": 1,
    "fit": 2,  # both sides come through one path (stages/seen.py)
    "critic": 1,
    "update": 2,  # the same
    "evaluate": 3,  # batch by batch: a metric changed in its last bit; cards name clips by content
    "report": 2,  # tells of alarms
}
