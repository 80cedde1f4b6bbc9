"""Stage request: a stage with its params and inputs, and the reference of the artifact it makes.

The request's fingerprint is the artifact's, known before anything runs. Imports no torch.
"""

from typing import Any

from afd.artifacts import ArtifactRef
from afd.config import Frozen
from afd.fingerprint import fingerprint
from afd.runtime.identity import semantic
from afd.runtime.revisions import StageName
from afd.runtime.stage_specs import StageSpec, stage_spec


class StageRequest(Frozen):
    """One stage to run, with its params and inputs."""

    stage: StageName
    params: dict[str, Any]
    inputs: dict[str, ArtifactRef]  # role -> artifact

    @property
    def spec(self) -> StageSpec:
        """The row of its stage."""
        return stage_spec(self.stage)

    @property
    def makes_student(self) -> bool:
        """True when the artifact is a student, not another network of its family."""
        others = self.stage == "critic" or "start" in self.inputs
        return self.spec.makes == "student_weights" and not others

    @property
    def output(self) -> ArtifactRef:
        """Reference of the artifact that this request makes."""
        identity = {
            "stage": self.stage,
            "revision": self.spec.revision,
            "params": semantic(self.params),
            "inputs": {role: ref.fingerprint for role, ref in self.inputs.items()},
        }
        return ArtifactRef(kind=self.spec.makes, fingerprint=fingerprint(identity))


def needs_network(request: StageRequest) -> bool:
    """Return True for a stage that calls a vendor and so cannot run on a compute node."""
    return request.stage == "harvest" and request.params["teacher"]["kind"] == "remote"
