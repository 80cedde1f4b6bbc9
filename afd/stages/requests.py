"""Requests of the nine stages: the params and inputs that each stage takes.

Flows build their requests here; nothing imports torch.
"""

from collections.abc import Mapping
from typing import Any

from afd.artifacts import ArtifactRef
from afd.config import (
    FilePrompts,
    LawsParams,
    Params,
    SimulatorTeacher,
    WarmstartParams,
)
from afd.runtime.identity import content, content_of, content_sha256
from afd.runtime.outcome import RefusedError
from afd.runtime.request import StageRequest
from afd.runtime.revisions import StageName
from afd.video.rhythm import hold_for

TRAIN = "train"
POCKET_LAWS = {  # of params/pocket.yaml
    "gravity": {"low": 0.15, "high": 0.15},
    "restitution": {"low": 0.7, "high": 0.7},
    "velocity_jitter": 0.0,
    "collide": 1.0,
}


def prompts(params: Params) -> StageRequest:
    """Request the prompts, split into train and held-out; a file enters by its content.

    Raises RefusedError when the file cannot be read.
    """
    chosen = params.prompts.model_dump(mode="json")
    if isinstance(params.prompts, FilePrompts):
        chosen["sha256"] = content_sha256(params.prompts.path)
    return _request("prompts", params, (), {}, prompts=chosen)


def refuse_unpermitted(permitted: str) -> None:
    """Raise RefusedError unless the teacher's terms allow training; harvesting always may."""
    if permitted != "yes":
        raise RefusedError(
            f"teacher.training_permitted is {permitted!r}: training on the teacher's clips is "
            "refused, clips that were paid are kept; set it to yes once the teacher's terms have "
            "been read and allow it"
        )


def harvest_round(params: Params, prompt_set: ArtifactRef, round_index: int) -> StageRequest:
    """Request teacher clips for the prompts of one round."""
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
    """Request teacher clips for the held-out prompts: for comparison, never for training."""
    return _request(
        "harvest",
        params,
        ("teacher", "num_frames", "frame_size", "fps"),
        {"prompt_set": prompt_set},
        split=params.evaluate.split,
        round_index=0,
        num_prompts=params.evaluate.num_prompts,
    )


def warmstart(params: Params, prompt_set: ArtifactRef) -> StageRequest:
    """Request the student before any round: right look, wrong physics."""
    sections = ("student", "warmstart", "num_frames", "frame_size")
    return _request("warmstart", params, sections, {"prompt_set": prompt_set})


def white_box(params: Params, prompt_set: ArtifactRef, student: ArtifactRef) -> StageRequest:
    """Request the white-box teacher: `student` trained further on the teacher's own clips."""
    teacher = params.teacher
    if not isinstance(teacher, SimulatorTeacher) or teacher.white_box is None:
        raise RefusedError("teacher.white_box is null: this teacher shows finished videos only")
    corpus = WarmstartParams(
        laws=teacher.laws, look=teacher.look, **teacher.white_box.model_dump(mode="json")
    )
    return _request(
        "warmstart",
        params,
        ("student", "num_frames", "frame_size"),
        {"prompt_set": prompt_set, "start": student},
        warmstart=corpus.model_dump(mode="json"),
    )


def critic(
    params: Params, rollouts: ArtifactRef, previous: ArtifactRef, round_index: int
) -> StageRequest:
    """Request a network of the student's family, refitted to the student's rollouts."""
    own = params.update.critic
    if own is None:
        raise RefusedError("update.critic is null: only distribution matching has one")
    return _request(
        "critic",
        params,
        (),
        {"rollouts": rollouts, "critic": previous},
        critic=own.model_dump(mode="json"),
        round_index=round_index,
    )


def rollout(
    params: Params, prompt_set: ArtifactRef, student: ArtifactRef, round_index: int
) -> StageRequest:
    """Request a group of rollouts for every prompt of the round, by exactly this student."""
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
    anchor: tuple[ArtifactRef, ArtifactRef] | None = None,
) -> StageRequest:
    """Request the discriminator, refitted on this round's pairs and replayed rounds.

    Both lists run from the oldest replayed round to this one; `anchor` are the first round's clips
    and rollouts, on which every later discriminator is measured. Raises RefusedError without the
    permission to train.
    """
    refuse_unpermitted(params.teacher.training_permitted)
    inputs = {f"teacher_clips_{i}": ref for i, ref in enumerate(reversed(teacher_clips))}
    inputs |= {f"rollouts_{i}": ref for i, ref in enumerate(reversed(rollouts))}
    if previous is not None:
        inputs["discriminator"] = previous
    if anchor is not None:
        inputs["anchor_clips"], inputs["anchor_rollouts"] = anchor
    sections = ("discriminator", "fit", "frame_size", "num_frames", "fps", "canonical")
    return _request("fit", params, sections, inputs, round_index=round_index, **_rhythm(params))


def update(
    params: Params,
    teacher_clips: list[ArtifactRef],
    rollouts: ArtifactRef | None,
    discriminator: ArtifactRef | None,
    student: ArtifactRef,
    reference: ArtifactRef,
    round_index: int,
    matched: Mapping[str, ArtifactRef] | None = None,
) -> StageRequest:
    """Request the student after one round; the stage refuses another student's rollouts.

    Of the teacher clips (from the oldest replayed round to this one) the supervised objective gets
    all, the generator objective this round's, AFD none. Distribution matching gets `matched` in
    place of a discriminator: the white_box and the critic.
    """
    inputs = {"student": student, "reference": reference, **(matched or {})}
    if rollouts is not None:
        inputs["rollouts"] = rollouts
    if discriminator is not None:
        inputs["discriminator"] = discriminator
    match params.update.objective:
        case "supervised":
            refuse_unpermitted(params.teacher.training_permitted)
            inputs |= {f"teacher_clips_{i}": ref for i, ref in enumerate(reversed(teacher_clips))}
        case "generator":
            inputs["teacher_clips"] = teacher_clips[-1]
        case "forward_process" | "reverse_chain" | "distribution_matching":
            pass
    return _request(
        "update",
        params,
        ("update", "num_rounds", "num_frames", "frame_size", "fps", "canonical"),
        inputs,
        refresh=params.rollout.refresh,
        behaviour=params.rollout.behaviour,
        round_index=round_index,
        **(_rhythm(params) if discriminator is not None else {}),
    )


def evaluate_round(
    params: Params, prompt_set: ArtifactRef, student: ArtifactRef, reference: ArtifactRef
) -> StageRequest:
    """Request the cheaper evaluation after each round."""
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
    """Request base, student and teacher on every held-out prompt, with paired intervals."""
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


def evaluate_horizon(
    params: Params, prompt_set: ArtifactRef, student: ArtifactRef, reference: ArtifactRef
) -> StageRequest:
    """Request base and student on clips longer than those of training; no teacher has such clips.

    Every prompt, with the noise seeds of a round.
    """
    horizon = params.evaluate.horizon
    if horizon is None:
        raise RefusedError("evaluate.horizon is null: nobody asked for longer clips")
    keep = params.evaluate.model_copy(update={"evaluators": ()})
    longer = {"num_frames": params.num_frames * horizon, "evaluate": keep}
    return _evaluate(
        params.model_copy(update=longer),
        {"prompt_set": prompt_set, "student": student, "reference": reference},
        keep.num_prompts,
        keep.round_noise_seeds,
        horizon=horizon,
    )


def report(
    params: Params,
    evaluation: ArtifactRef,
    rounds: list[dict[str, ArtifactRef]],
) -> StageRequest:
    """Request the page of a campaign; `rounds` holds each round's artifacts by role."""
    inputs = {"evaluation": evaluation}
    for index, made in enumerate(rounds):
        inputs |= {f"{role}_{index:03d}": ref for role, ref in made.items()}
    chosen = params.model_dump(mode="json")
    return StageRequest(stage="report", params=chosen | content(chosen), inputs=inputs)


def _evaluate(
    params: Params,
    inputs: dict[str, ArtifactRef],
    num_prompts: int,
    noise_seeds: tuple[int, ...],
    **more: Any,
) -> StageRequest:
    keep = params.evaluate
    is_final = "teacher_clips" in inputs
    evaluators = [e for e in keep.evaluators if is_final or e.when == "every_round"]
    outside: dict[str, Any] = {}  # absent without evaluators: such identities stay as they are
    if evaluators:
        outside["evaluators"] = [evaluator.model_dump(mode="json") for evaluator in evaluators]
        outside["evaluator_weights"] = {
            e.name: content_of(f"evaluate.evaluators.{e.name}.weights", e.weights)
            for e in evaluators
            if e.weights is not None
        }
    if keep.guidance is not None:
        outside["guidance"] = keep.guidance
    return _request(
        "evaluate",
        params,
        ("num_frames", "frame_size", "fps", "canonical"),
        inputs,
        laws=_laws(params),
        split=keep.split,
        num_prompts=num_prompts,
        noise_seeds=list(noise_seeds),
        num_resamples=keep.num_resamples,
        confidence=keep.confidence,
        frechet_margin=keep.frechet_margin,
        num_filmstrips=keep.num_filmstrips,
        **outside,
        **more,
    )


def _laws(params: Params) -> dict[str, Any]:
    """Return the laws for physics metrics: the teacher's, or the pocket world's without any."""
    known = params.teacher.laws or LawsParams.model_validate(POCKET_LAWS)
    return known.model_dump(mode="json")


def _rhythm(params: Params) -> dict[str, float]:
    """Return the teacher's rate where pictures of both sides are held for it, else nothing.

    What was made before pictures were held has another identity; equal rates keep theirs.
    """
    rate = params.teacher_fps
    is_held = rate is not None and hold_for(rate, params.fps, params.num_frames) != 1
    return {"teacher_fps": rate} if rate is not None and is_held else {}


def _request(
    stage: StageName,
    params: Params,
    sections: tuple[str, ...],
    inputs: dict[str, ArtifactRef],
    **values: Any,
) -> StageRequest:
    """Build a request from the seed, the named sections of params and the stage's values."""
    chosen = params.model_dump(mode="json", include=set(sections) | {"seed"}) | values
    return StageRequest(stage=stage, params=chosen | content(chosen), inputs=inputs)
