"""A look into a campaign's weights before it starts: python -m afd.runtime.weight_checks < PARAMS.

All that a stage would refuse hours later, after clips were paid, is refused at the start: a LoRA
without its base or alpha, a reward that does not fit its backbone, weights that are no plain
floats. It runs as a process of its own: torch and the files' libraries stay out of the head.
"""

import json
import subprocess
import sys

from pydantic import TypeAdapter

from afd.config import Discriminator, Params, Student, is_published
from afd.runtime.outcome import RefusedError
from afd.runtime.weight_files import paths_of


def refuse_unusable_weights(params: Params) -> None:
    """Raise RefusedError with everything that is wrong with the files that params name."""
    if not any(field.startswith(("student.", "discriminator.")) for field in paths_of(params)):
        return
    done = subprocess.run(
        [sys.executable, "-m", "afd.runtime.weight_checks"],
        input=params.model_dump_json(include={"student", "discriminator"}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:  # killed, or a fault of the look itself: the stages look again
        reason = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1][:300]
        sys.stderr.write(f"warning: weights are not looked at before the start: {reason}\n")
    elif problems := json.loads(done.stdout.splitlines()[-1]):
        text = "\n".join(problems)
        raise RefusedError(f"{text}\nNothing was started, and nothing was paid")


def problems_of(sections: dict[str, object]) -> list[str]:
    """Return what the stages would refuse, by the files' headers."""
    from afd.discriminators.backbones import BackboneError

    student = TypeAdapter[Student](Student).validate_python(sections["student"])
    discriminator = TypeAdapter[Discriminator](Discriminator).validate_python(
        sections["discriminator"]
    )
    problems: list[str] = []
    if is_published(student):
        from afd.students import published

        problems += [f"student: {problem}" for problem in published.look(student)]
    try:
        match discriminator.kind:
            case "vlm":
                from afd.discriminators import vlm

                vlm.look(discriminator)
            case "dit_features":
                from afd.discriminators import dit_features

                dit_features.look(discriminator)
            case "conv" | "plugin":
                pass
    except BackboneError as error:
        problems.append(str(error))
    return problems


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(problems_of(json.load(sys.stdin)))}\n")
