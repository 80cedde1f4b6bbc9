"""From what a person chose (files, overlays, overrides) to validated params."""

from collections.abc import Sequence
from pathlib import Path

from afd.config import Cluster, Params
from afd.params import ParamsError, load_params
from afd.stages import request
from flows.session import Places, campaign_folder, kept_params


def chosen_params(
    campaign: str,
    places: Places,
    params: str | Path | None,
    overlays: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
) -> Params:
    """The params named, or those the campaign was started with when none are.

    Raises ParamsError, or RefusedError for what is known to stop a campaign before it starts: a
    teacher whose terms forbid training, a prompts file that cannot be read.
    """
    chosen = _chosen(campaign, places, params, overlays, overrides)
    request.refuse_unpermitted(chosen.teacher.training_permitted)
    request.prompts(chosen)
    return chosen


def _chosen(
    campaign: str,
    places: Places,
    params: str | Path | None,
    overlays: Sequence[str | Path],
    overrides: Sequence[str],
) -> Params:
    if params is not None:
        return load_params(Params, Path(params), [Path(file) for file in overlays], overrides)
    folder = campaign_folder(campaign, places)
    kept = kept_params(folder)
    if kept is None:
        raise ParamsError(
            "--params",
            [f"campaign {campaign!r} is new: name its params, e.g. --params params/pocket.yaml"],
        )
    if overlays or overrides:
        raise ParamsError("--params", ["--overlay and --set need --params beside them"])
    return kept


def chosen_cluster(cluster: str | Path, overrides: Sequence[str] = ()) -> Cluster:
    """Where to run."""
    return load_params(Cluster, Path(cluster), (), overrides)
