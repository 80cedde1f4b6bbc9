"""Alarms acted on by real campaigns: faults put in by params, the same decisions after a kill."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from afd.store import Store
from tests.flows.conftest import Forge

SIGKILL = -9
REFUSED = 2
# The score ranks four rollouts no better than this: the alarm is sure, and so is its roll-back.
ROLLS_BACK = (
    "num_rounds=4",
    "alarms.reward_hacking.action=roll_back",
    "alarms.reward_hacking.min_rank_correlation=1.0",
    "alarms.max_roll_backs=4",
    "update.learning_rate.high=0.1",
    "update.learning_rate.low=0.1",
)


@dataclass
class Played:
    """One campaign by its files."""

    forge: Forge
    name: str
    store: Path
    logs: Path
    settings: tuple[str, ...] = ()
    codes: list[int] = field(default_factory=list)

    def afd(self, *arguments: str, failpoint: str = "") -> str:
        log = self.logs / f"{self.name}-{len(self.codes)}.log"
        chosen = [part for setting in self.settings for part in ("--set", setting)]
        code = self.forge.afd(
            *arguments, "--name", self.name, *chosen, store=self.store, log=log, failpoint=failpoint
        )
        self.codes.append(code)
        return " ".join(log.read_text().split())

    @property
    def folder(self) -> Path:
        return self.forge.runs / self.name

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return self._records("decisions")

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return self._records("rounds")

    def _records(self, folder: str) -> list[dict[str, Any]]:
        files = sorted((self.folder / folder).glob("[0-9]*.json"))
        return [json.loads(file.read_bytes()) for file in files]

    @property
    def first_roll_back(self) -> int:
        """The first round after which an earlier one is gone on from; one more round follows."""
        starts = [one["starts_from"] for one in self.decisions[:-1]]
        return next(index for index, start in enumerate(starts) if start != index)

    def alarms(self, index: int) -> set[str]:
        return {alarm["gauge"] for alarm in self.decisions[index]["alarms"]}

    def error(self, index: int) -> float:
        """The held-out trajectory error after a round."""
        (made,) = Store(self.store).find(self.rounds[index]["evaluation"]["fingerprint"])
        return float(str(made.manifest.summary["trajectory_error_px"]))

    def made_from(self, index: int, role: str) -> dict[str, str]:
        """Role -> fingerprint of what a round's artifact was made from."""
        known = Store(self.store)
        (made,) = known.find(self.rounds[index][role]["fingerprint"])
        return {name: ref.fingerprint for name, ref in made.manifest.made_from.items()}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store that the campaigns share, so that one warm start serves all, and their logs."""
    folder = tmp_path_factory.mktemp("alarms")
    return folder / "store", folder


@pytest.fixture(scope="module")
def rolled_back(forge: Forge, paths: tuple[Path, Path]) -> Played:
    played = Played(forge, "rolled-back", *paths, ROLLS_BACK)
    played.afd("campaign")
    return played


@pytest.mark.campaign
def test_a_player_that_learns_nothing_is_told_gets_more_steps_and_is_stopped(
    forge: Forge, paths: tuple[Path, Path]
) -> None:
    """Learning rates of 0: the discriminator stays at chance, the student where it was."""
    settings = (
        "num_rounds=5", "fit.learning_rate=0.0", "alarms.collapse.action=more_fit_steps",
        "alarms.collapse.min_pair_accuracy=0.8", "update.learning_rate.high=0.0",
        "update.learning_rate.low=0.0", "alarms.no_progress.action=stop",
        "alarms.no_progress.num_rounds=2",
    )  # fmt: skip
    played = Played(forge, "nothing", *paths, settings)
    said = played.afd("campaign")
    assert played.codes == [0], said
    assert [one["ends"] for one in played.decisions] == ["goes_on", "goes_on", "stops"]
    assert "fit/pair_accuracy" in played.alarms(0) | played.alarms(1)
    assert played.alarms(2) >= {"evaluate/trajectory_error_px"}
    assert "stopped: no more rounds" in played.decisions[2]["changes"]
    powers = [0] + [one["fit_steps_power"] for one in played.decisions]
    assert max(powers) > 0
    for index in range(3):
        (judge,) = Store(paths[0]).find(played.rounds[index]["discriminator"]["fingerprint"])
        assert judge.manifest.params["fit"]["num_steps"] == 3 * 2 ** powers[index]
    assert (played.folder / "summary.json").exists()
    assert "no_progress" in (played.folder / "report.html").read_text().replace(
        "no progress", "no_progress"
    )
    again = played.afd("campaign")
    assert "round 0   rollout" not in again, again  # finished: alarms alone are said again
    assert (
        "stopped the campaign after round 2" in played.afd("round") and played.codes[-1] == REFUSED
    )


@pytest.mark.campaign
def test_rollouts_that_repeat_each_other_pause_until_somebody_has_seen_it(
    forge: Forge, paths: tuple[Path, Path]
) -> None:
    """A student whose warm start has taught it nothing: it answers everything with one picture."""
    settings = (
        "num_rounds=1", "warmstart.num_steps=1", "warmstart.learning_rate=1.0e-9",
        "alarms.stillness.action=pause",
    )  # fmt: skip
    played = Played(forge, "still", *paths, settings)
    said = played.afd("campaign")
    assert played.codes == [REFUSED]
    assert played.alarms(0) >= {"update/static_share", "update/duplicate_share"}
    assert "paused by an alarm after round 0" in said and "kept: round 0, whole" in said
    assert "resume still --acknowledge" in said
    again = played.afd("campaign")
    assert played.codes[-1] == REFUSED and "paused by an alarm after round 0" in again
    assert "evaluate" not in again and not (played.folder / "rounds" / "final.json").exists()
    (played.folder / "acknowledged.json").write_text('{"rounds": [0]}')
    assert "trajectory_error_px" in played.afd("campaign") and played.codes[-1] == 0


@pytest.mark.campaign
def test_a_roll_back_goes_on_from_the_best_round_with_both_players(rolled_back: Played) -> None:
    """Which round is the first that is worse than one before it depends on the kind of CPU."""
    starts = [one["starts_from"] for one in rolled_back.decisions]
    worse = rolled_back.first_roll_back
    assert "update/rank_correlation" in rolled_back.alarms(worse)
    errors = [rolled_back.error(index) for index in range(worse + 1)]
    assert starts[worse] == errors.index(min(errors))
    best = {role: ref["fingerprint"] for role, ref in rolled_back.rounds[starts[worse]].items()}
    assert rolled_back.made_from(worse + 1, "rollouts")["student"] == best["student"]
    assert rolled_back.made_from(worse + 1, "student")["student"] == best["student"]
    judge = rolled_back.made_from(worse + 1, "discriminator")
    assert judge["discriminator"] == best["discriminator"]
    assert judge["rollouts_1"] == best["rollouts"]  # replayed: what led to it, not what was left


@pytest.mark.campaign
def test_killed_between_deciding_and_keeping_it_decides_the_same(rolled_back: Played) -> None:
    killed = Played(rolled_back.forge, "killed", rolled_back.store, rolled_back.logs, ROLLS_BACK)
    killed.afd("campaign", failpoint="flow.before_versions:4")
    assert killed.codes == [SIGKILL] and len(killed.decisions) == 3
    killed.afd("campaign")
    assert killed.codes[-1] == rolled_back.codes[0]
    assert killed.decisions == rolled_back.decisions
    assert killed.rounds == rolled_back.rounds


@pytest.mark.campaign
def test_killed_in_a_round_after_a_roll_back_it_makes_the_same(
    rolled_back: Played, tmp_path: Path
) -> None:
    killed = Played(rolled_back.forge, "elsewhere", tmp_path / "store", tmp_path, ROLLS_BACK)
    shutil.copytree(rolled_back.store, killed.store, symlinks=True)
    for role in ("rollouts", "discriminator", "student", "evaluation"):  # round 3 is made again
        (made,) = Store(killed.store).find(rolled_back.rounds[3][role]["fingerprint"])
        shutil.rmtree(made.path)
    killed.afd("campaign", failpoint="update.step:1")
    assert killed.codes == [SIGKILL] and len(killed.rounds) == 3
    killed.afd("campaign")
    assert killed.decisions == rolled_back.decisions
    assert killed.rounds == rolled_back.rounds
    last = rolled_back.rounds[3]["student"]["fingerprint"]
    files = [
        {file: entry.sha256 for file, entry in made.manifest.files.items()}
        for store in (killed.store, rolled_back.store)
        for made in Store(store).find(last)
    ]
    assert files[0] == files[1]


@pytest.mark.campaign
def test_a_round_asked_for_alone_decides_the_same(rolled_back: Played) -> None:
    alone = Played(rolled_back.forge, "alone", rolled_back.store, rolled_back.logs, ROLLS_BACK)
    alone.afd("round", "--index", "3")
    assert alone.codes == [0]
    assert alone.decisions == rolled_back.decisions
    assert alone.rounds == rolled_back.rounds


@pytest.mark.campaign
def test_until_its_first_decision_a_campaign_is_what_it_is_without_alarms(
    rolled_back: Played,
) -> None:
    settings = tuple(setting for setting in ROLLS_BACK if "alarms" not in setting)
    plain = Played(rolled_back.forge, "plain", rolled_back.store, rolled_back.logs, settings)
    first = rolled_back.first_roll_back
    plain.afd("round", "--index", str(first))
    assert plain.rounds == rolled_back.rounds[: first + 1]
    assert [one["starts_from"] for one in plain.decisions] == list(range(first + 1))
