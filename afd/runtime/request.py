"""Stage request: a stage with its params and inputs, and the reference of the artifact it makes.

The request's fingerprint is the artifact's, known before anything runs. Imports no torch.
"""

from typing import Any

from afd.artifacts import ArtifactKind, ArtifactRef
from afd.config import Frozen
from afd.fingerprint import fingerprint
from afd.runtime.identity import semantic
from afd.runtime.revisions import REVISION, StageName

OUTPUT: dict[StageName, ArtifactKind] = {
    "prompts": "prompt_set",
    "harvest": "teacher_clips",
    "warmstart": "student_weights",
    "rollout": "rollouts",
    "fit": "discriminator_weights",
    "critic": "student_weights",
    "update": "student_weights",
    "evaluate": "evaluation",
    "report": "report",
}


class StageRequest(Frozen):
    """One stage to run, with its params and inputs."""

    stage: StageName
    params: dict[str, Any]
    inputs: dict[str, ArtifactRef]  # role -> artifact

    @property
    def makes_student(self) -> bool:
        """True when the artifact is a student, not another network of its family."""
        others = self.stage == "critic" or "start" in self.inputs
        return OUTPUT[self.stage] == "student_weights" and not others

    @property
    def output(self) -> ArtifactRef:
        """Reference of the artifact that this request makes."""
        identity = {
            "stage": self.stage,
            "revision": REVISION[self.stage],
            "params": semantic(self.params),
            "inputs": {role: ref.fingerprint for role, ref in self.inputs.items()},
        }
        return ArtifactRef(kind=OUTPUT[self.stage], fingerprint=fingerprint(identity))


def needs_network(request: StageRequest) -> bool:
    """Return True for a stage that calls a vendor and so cannot run on a compute node."""
    return request.stage == "harvest" and request.params["teacher"]["kind"] == "remote"
