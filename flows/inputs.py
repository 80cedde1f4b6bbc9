"""Validated params from files, overlays and overrides."""

import sys
from collections.abc import Sequence
from pathlib import Path

from afd.clips.requests import ClipRequest, round_requests
from afd.config import Cluster, FolderTeacher, Params, RemoteTeacher, student_family
from afd.config.prompts import FilePrompts
from afd.params import ParamsError, load_params
from afd.prompts import Prompt, PromptsError, compose, parse_jsonl, read_bytes, read_jsonl
from afd.runtime.identity import plugin_sources
from afd.runtime.outcome import RefusedError
from afd.runtime.weight_checks import refuse_unusable_weights
from afd.runtime.weight_files import refuse_missing_weights
from afd.stages import requests
from afd.store import Store
from afd.world.sentences import is_sentence
from flows.command_text import short_path
from flows.last_command import ClusterSource, LastCommand
from flows.paths import CampaignPaths, campaign_folder, saved_params, teacher_name


def chosen_params(
    campaign: str,
    paths: CampaignPaths,
    params: str | Path | None,
    overlays: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
) -> Params:
    """Return the named params, or without a name those that the campaign was started with.

    Raises ParamsError, or RefusedError for what would stop a campaign later: a teacher whose terms
    forbid training, a prompts file that cannot be used (PromptsError), weights that are not on this
    disk or that a stage would refuse by their headers, a plugin that is not installed
    (PluginError).
    """
    chosen = read_params(campaign, paths, params, overlays, overrides)
    requests.refuse_unpermitted(chosen.teacher.training_permitted)
    refuse_missing_weights(chosen)
    plugin_sources(chosen.model_dump(mode="json"))
    store = Store(paths.store.resolve())
    prompts = prompts_of(chosen, store)
    if isinstance(chosen.teacher, RemoteTeacher | FolderTeacher):
        from afd.clips.permission import refuse_requests  # pyarrow: paid where it is needed

        refuse_requests(store, chosen.teacher, _trained_on(chosen, chosen.teacher, prompts))
    if saved_params(campaign_folder(campaign, paths)) != chosen:  # once: it takes some seconds
        refuse_unusable_weights(chosen)
    return chosen


def prompts_of(params: Params, store: Store) -> list[Prompt]:
    """Return the prompts of a campaign, checked before anything starts.

    Raises PromptsError with every problem at once, RefusedError for a file that cannot be read or
    for sentences that the student cannot read.
    """
    prompt_request, chosen = requests.prompts(params), params.prompts
    sizes = (chosen.num_held_out, chosen.num_tuning, chosen.num_train)
    if not isinstance(chosen, FilePrompts):
        if store.have(prompt_request.output):
            return read_jsonl(store.path(prompt_request.output) / "prompts.jsonl")
        return compose(*sizes)
    if store.have(prompt_request.output):
        prompts = read_jsonl(store.path(prompt_request.output) / "prompts.jsonl")
    else:
        prompts = parse_jsonl(read_bytes(Path(chosen.path)), chosen.path, *sizes)
    needed = ("train", params.evaluate.split)
    if missing := [split for split in needed if split not in {one.split for one in prompts}]:
        problem = f"{chosen.path}: no prompt is in the split {' and '.join(missing)}; write some"
        raise PromptsError([problem])
    if not student_family(params.student.family).open_vocabulary:
        _refuse_other_sentences(params.student.family, chosen.path, prompts)
    return prompts


def _refuse_other_sentences(family: str, path: str, prompts: list[Prompt]) -> None:
    """Refuse prompts outside the pocket world: a fresh student reads its sentences alone."""
    others = [prompt.text for prompt in prompts if not is_sentence(prompt.text)]
    if others:
        raise RefusedError(
            f"prompts.path: {len(others)} of {len(prompts)} prompts of {path} are no sentences of "
            f"the pocket world, e.g. {others[0][:80]!r}, and a student.family {family} knows no "
            "other words: choose params with a published student, e.g. params/self_forcing.yaml"
        )


def _trained_on(
    params: Params, teacher: RemoteTeacher | FolderTeacher, prompts: list[Prompt]
) -> list[ClipRequest]:
    """Return every clip that a round learns from, without the held-out ones."""
    prompt_set = requests.prompts(params).output
    rounds = [requests.harvest_round(params, prompt_set, i) for i in range(params.num_rounds)]
    return [want for one in rounds for want in round_requests(one.params, teacher, prompts)]


def read_params(
    campaign: str,
    paths: CampaignPaths,
    params: str | Path | None,
    overlays: Sequence[str | Path],
    overrides: Sequence[str],
) -> Params:
    """Return the params as `chosen_params`, also for a teacher that training may not use."""
    if params is not None:
        return load_params(Params, Path(params), [Path(file) for file in overlays], overrides)
    folder = campaign_folder(campaign, paths)
    saved = saved_params(folder)
    if saved is None:
        raise ParamsError(
            "--params",
            [f"campaign {campaign!r} is new: name its params, e.g. --params params/pocket.yaml"],
        )
    if overlays or overrides:
        raise ParamsError("--params", ["--overlay and --set need --params beside them"])
    return saved


def chosen_cluster(cluster: str | Path, overrides: Sequence[str] = ()) -> Cluster:
    """Return the cluster of a file, with overrides."""
    return load_params(Cluster, Path(cluster), (), overrides)


def resumed_cluster(
    last: LastCommand, file: Path | None, overrides: Sequence[str]
) -> tuple[Cluster, ClusterSource | None]:
    """Return the cluster of a resumed campaign, from its file, or as stored where the file is gone.

    `file`: another one; `overrides`: over those of the last command. Raises ParamsError.
    """
    known = last.cluster_source
    if file is not None:
        source = ClusterSource.of(file, overrides)
    elif known is not None and Path(known.file).exists():
        source = ClusterSource.of(known.file, (*known.overrides, *overrides))
    elif overrides:
        raise RefusedError("--set-cluster: the file it belongs to is gone: name one by --cluster")
    else:
        if known is not None:
            sys.stderr.write(
                f"{short_path(Path(known.file))} is gone: going on with what it said\n"
            )
        return last.cluster, known
    return chosen_cluster(source.file, source.overrides), source


def named_teacher(campaign: str, paths: CampaignPaths, params: str | Path | None) -> str | None:
    """Return the teacher's name; None where the params cannot be read."""
    try:
        return teacher_name(read_params(campaign, paths, params, (), ()))
    except (ParamsError, RefusedError):
        return None
