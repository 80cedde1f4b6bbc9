"""A look into a campaign's weights before it starts: python -m afd.runtime.weight_checks < PARAMS.

All that a stage would refuse hours later, after clips were paid, is refused at the start: a LoRA
without its base or alpha, weights that are no plain floats. Headers are read, in a process of its
own: torch and the libraries of the files stay out of the head process.
"""

import json
import subprocess
import sys

from pydantic import TypeAdapter

from afd.config import Params, Student, is_published
from afd.runtime.outcome import RefusedError


def refuse_unusable_weights(params: Params) -> None:
    """Raise RefusedError with everything that is wrong with the files that params name."""
    if not is_published(params.student):
        return
    done = subprocess.run(
        [sys.executable, "-m", "afd.runtime.weight_checks"],
        input=json.dumps({"student": params.student.model_dump(mode="json")}),
        capture_output=True,
        text=True,
        check=False,
    )
    problems = done.stdout if done.returncode == 0 else f"{sys.executable}: {done.stderr[-600:]}"
    if problems.strip():
        raise RefusedError(f"{problems.strip()}\nNothing was started, and nothing was paid")


def problems_of(sections: dict[str, object]) -> list[str]:
    """Return what the stages would refuse, by the files' headers."""
    from afd.students import published

    student = TypeAdapter[Student](Student).validate_python(sections["student"])
    found = published.look(student) if is_published(student) else []
    return [f"student: {problem}" for problem in found]


if __name__ == "__main__":
    sys.stdout.write("\n".join(problems_of(json.load(sys.stdin))))
