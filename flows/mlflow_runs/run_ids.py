"""Ids of a campaign's MLflow runs on disk: <campaign>/lineage/<fp16>.json and its companions.

identity.json      {"campaign_id", "params"}: tells this campaign from an earlier one of its name
campaign.json      {"run_id", "state", "experiment_id", "champion", "final"}
round_003.json     {"run_id", "state"}
<fp16>.json        {"run_id", "state", "start_ms", "step", "model_id", "version", "score",
                   "refused"}; one a stage's artifact
"""

import json
import uuid
from pathlib import Path
from typing import Any, Literal, cast

from afd.artifacts import ArtifactRef
from afd.evaluation.readings import flatten
from afd.runtime.identity import semantic
from afd.store import write_json
from flows.small_files import SmallFiles

CampaignEnding = Literal["finished", "paused", "failed", "killed"]  # paused: rounds are left
State = Literal["running", "scheduled", "finished", "failed", "killed"]
CAMPAIGN = "campaign"


def stage_key(ref: ArtifactRef) -> str:
    """Return the name of a stage's file: the same sixteen characters as its folder in the store."""
    return ref.fingerprint[:16]


def round_key(index: int) -> str:
    return f"round_{index:03d}"


class RunIds:
    """Small atomic files; reading one that does not exist gives an empty entry."""

    def __init__(self, campaign_dir: Path) -> None:
        self.folder = Path(campaign_dir) / "lineage"
        self._files_read = SmallFiles[Any](json.loads)  # a campaign of 40 rounds has 300

    def read(self, key: str) -> dict[str, Any]:
        try:
            content = self._files_read.read(self.folder / f"{key}.json")
        except (OSError, ValueError):
            return {}  # missing or damaged: the run is found again in MLflow, or made anew
        return dict(cast("dict[str, Any]", content)) if isinstance(content, dict) else {}

    def write(self, key: str, **values: Any) -> None:
        """Set `values` in the entry of `key`; the others stay."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{key}.json", self.read(key) | values)

    def is_finished(self, key: str) -> bool:
        return self.read(key).get("state") == "finished"

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return key -> entry of every known run."""
        return {file.stem: self.read(file.stem) for file in self._files()}

    def campaign_id(self, params: dict[str, Any] | None) -> str:
        """Return the id of this campaign; other params under the same name are another campaign.

        The runs of the earlier one stay in MLflow; their ids are set aside.
        """
        known = self.read("identity")
        if known and (params is None or not _differ(known["params"], params)):
            return str(known["campaign_id"])
        if known:
            self.set_aside()
        campaign_id = uuid.uuid4().hex
        self.write("identity", campaign_id=campaign_id, params=params or {})
        return campaign_id

    def set_aside(self) -> None:
        """Forget all runs, because they are another campaign's or their database is gone."""
        earlier = self.folder / f"earlier-{uuid.uuid4().hex[:8]}"
        earlier.mkdir(parents=True)
        for file in [*self._files(), self.folder / "identity.json"]:
            if file.exists():
                file.rename(earlier / file.name)

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(f for f in self.folder.glob("*.json") if f.stem != "identity")


def _differ(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether two campaigns differ in a param that both have; later versions have more."""
    one, other = (dict(flatten(semantic(params))) for params in (before, now))
    return any(one[name] != other[name] for name in one.keys() & other.keys())
