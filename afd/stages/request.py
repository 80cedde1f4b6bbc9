"""What to compute: one request names a stage, its params and its inputs, and so its artifact.

The request's fingerprint is the artifact's, known before anything runs. This module is what flows
see of the stages: it imports no torch.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, cast

from afd.artifacts import ArtifactKind, ArtifactRef
from afd.config import FilePrompts, Frozen, Params
from afd.fingerprint import fingerprint
from afd.stages.outcome import RefusedError

StageName = Literal[
    "prompts", "harvest", "warmstart", "rollout", "fit", "update", "evaluate", "report"
]
OUTPUT: dict[StageName, ArtifactKind] = {
    "prompts": "prompt_set",
    "harvest": "teacher_clips",
    "warmstart": "student_weights",
    "rollout": "rollouts",
    "fit": "discriminator_weights",
    "update": "student_weights",
    "evaluate": "evaluation",
    "report": "report",
}
# Raise a stage's number when a change of its code changes its result.
REVISION: dict[StageName, int] = dict.fromkeys(OUTPUT, 1)
TRAIN, HELD_OUT = "train", "held_out"


class StageRequest(Frozen):
    """One stage to run. All of it is identity, but for the path of a prompts file."""

    stage: StageName
    params: dict[str, Any]
    inputs: dict[str, ArtifactRef]  # role -> artifact

    @property
    def output(self) -> ArtifactRef:
        """The artifact this request makes."""
        identity = {
            "stage": self.stage,
            "revision": REVISION[self.stage],
            "params": _semantic(self.params),
            "inputs": {role: ref.fingerprint for role, ref in self.inputs.items()},
        }
        return ArtifactRef(kind=OUTPUT[self.stage], fingerprint=fingerprint(identity))


def prompts(params: Params) -> StageRequest:
    """The sentences, split into train and held-out; a file is its content, wherever it lies.

    Raises RefusedError when the file cannot be read.
    """
    chosen = params.prompts.model_dump(mode="json")
    if isinstance(params.prompts, FilePrompts):
        chosen["sha256"] = content_sha256(params.prompts.path)
    return _request("prompts", params, (), {}, prompts=chosen)


def content_sha256(path: str) -> str:
    """The identity of a prompts file; raises RefusedError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RefusedError(
            f"prompts.path: {path} cannot be read: {error.strerror}; write the path of a JSONL "
            "file, relative to where you type the command; nothing was started"
        ) from None


def refuse_unpermitted(permitted: str) -> None:
    """Raise RefusedError unless the teacher's terms allow training; harvesting always may."""
    if permitted != "yes":
        raise RefusedError(
            f"teacher.training_permitted is {permitted!r}: training on the teacher's clips is "
            "refused, clips that were paid are kept; set it to yes once the teacher's terms have "
            "been read and allow it"
        )


def harvest_round(params: Params, prompt_set: ArtifactRef, round_index: int) -> StageRequest:
    """Teacher clips for the prompts of one round."""
    return _request(
        "harvest",
        params,
        ("teacher", "num_frames", "frame_size", "fps"),
        {"prompt_set": prompt_set},
        split=TRAIN,
        round_index=round_index,
        num_prompts=params.rollout.num_prompts,
    )


def harvest_held_out(params: Params, prompt_set: ArtifactRef) -> StageRequest:
    """Teacher clips for the held-out prompts: to compare with, never to train on."""
    return _request(
        "harvest",
        params,
        ("teacher", "num_frames", "frame_size", "fps"),
        {"prompt_set": prompt_set},
        split=HELD_OUT,
        round_index=0,
        num_prompts=params.evaluate.num_prompts,
    )


def warmstart(params: Params, prompt_set: ArtifactRef) -> StageRequest:
    """The student before any round: right look, wrong physics."""
    sections = ("student", "warmstart", "num_frames", "frame_size")
    return _request("warmstart", params, sections, {"prompt_set": prompt_set})


def rollout(
    params: Params, prompt_set: ArtifactRef, student: ArtifactRef, round_index: int
) -> StageRequest:
    """A group of rollouts for every prompt of the round, by exactly this student."""
    return _request(
        "rollout",
        params,
        ("rollout",),
        {"prompt_set": prompt_set, "student": student},
        round_index=round_index,
    )


def fit(
    params: Params,
    teacher_clips: list[ArtifactRef],
    rollouts: list[ArtifactRef],
    previous: ArtifactRef | None,
    round_index: int,
) -> StageRequest:
    """The discriminator, refitted on this round's pairs and a replay of the last rounds.

    Both lists run from the oldest replayed round to this one. Raises RefusedError without the
    permission to train.
    """
    refuse_unpermitted(params.teacher.training_permitted)
    inputs = {f"teacher_clips_{i}": ref for i, ref in enumerate(reversed(teacher_clips))}
    inputs |= {f"rollouts_{i}": ref for i, ref in enumerate(reversed(rollouts))}
    if previous is not None:
        inputs["discriminator"] = previous
    sections = ("discriminator", "fit", "frame_size", "num_frames")
    return _request("fit", params, sections, inputs, round_index=round_index)


def update(
    params: Params,
    rollouts: ArtifactRef,
    discriminator: ArtifactRef,
    student: ArtifactRef,
    reference: ArtifactRef,
    round_index: int,
) -> StageRequest:
    """The student after one round; refuses rollouts that another student made."""
    return _request(
        "update",
        params,
        ("update", "num_rounds"),
        {
            "rollouts": rollouts,
            "discriminator": discriminator,
            "student": student,
            "reference": reference,
        },
        refresh=params.rollout.refresh,
        round_index=round_index,
    )


def evaluate_round(
    params: Params, prompt_set: ArtifactRef, student: ArtifactRef, reference: ArtifactRef
) -> StageRequest:
    """The cheaper look after each round."""
    return _evaluate(
        params,
        {"prompt_set": prompt_set, "student": student, "reference": reference},
        params.evaluate.round_num_prompts,
        params.evaluate.round_noise_seeds,
    )


def evaluate_final(
    params: Params,
    prompt_set: ArtifactRef,
    student: ArtifactRef,
    reference: ArtifactRef,
    teacher_clips: ArtifactRef,
) -> StageRequest:
    """Base, student and teacher on every held-out prompt, with paired intervals."""
    return _evaluate(
        params,
        {
            "prompt_set": prompt_set,
            "student": student,
            "reference": reference,
            "teacher_clips": teacher_clips,
        },
        params.evaluate.num_prompts,
        params.evaluate.noise_seeds,
    )


def report(
    params: Params,
    evaluation: ArtifactRef,
    rounds: list[dict[str, ArtifactRef]],
) -> StageRequest:
    """One self-contained page about a campaign: `rounds` holds each round's artifacts by role."""
    inputs = {"evaluation": evaluation}
    for index, made in enumerate(rounds):
        inputs |= {f"{role}_{index:03d}": ref for role, ref in made.items()}
    return StageRequest(stage="report", params=params.model_dump(mode="json"), inputs=inputs)


def _semantic(params: dict[str, Any]) -> dict[str, Any]:
    """`params` without where a prompts file lies: its content is identity, its place is not."""
    chosen: Any = params.get("prompts")
    if not isinstance(chosen, dict) or "path" not in chosen:
        return params
    kept = {k: v for k, v in cast("dict[str, Any]", chosen).items() if k != "path"}
    return params | {"prompts": kept}


def _evaluate(
    params: Params, inputs: dict[str, ArtifactRef], num_prompts: int, noise_seeds: tuple[int, ...]
) -> StageRequest:
    keep = params.evaluate
    return _request(
        "evaluate",
        params,
        ("num_frames", "frame_size", "fps"),
        inputs,
        laws=params.teacher.laws.model_dump(mode="json"),
        num_prompts=num_prompts,
        noise_seeds=list(noise_seeds),
        num_resamples=keep.num_resamples,
        confidence=keep.confidence,
        frechet_margin=keep.frechet_margin,
        num_filmstrips=keep.num_filmstrips,
    )


def _request(
    stage: StageName,
    params: Params,
    sections: tuple[str, ...],
    inputs: dict[str, ArtifactRef],
    **values: Any,
) -> StageRequest:
    """The seed, the named sections of params and the stage's own values."""
    chosen = params.model_dump(mode="json", include=set(sections) | {"seed"})
    return StageRequest(stage=stage, params=chosen | values, inputs=inputs)
