"""Stages in parts: as real processes, killed, damaged and side by side, against the whole stage."""

import fcntl
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from afd.attempts import BusyError, LostError
from afd.config import Params
from afd.errors import EXIT_CODE
from afd.params import load_params
from afd.runtime.outcome import RefusedError
from afd.runtime.parts import Part, max_parts, missing, saved
from afd.runtime.request import StageRequest
from afd.stages import requests
from afd.stages.__main__ import main
from afd.stages.execute import compute_part, execute
from afd.store import Store
from tests.afd.stages.conftest import Forge, hashes, with_inputs

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
OVERRIDES = ("rollout.batch_size=3", "num_rounds=1")  # 16 rollouts: 6 batches, the last of one


class Campaign:
    """What rollout and evaluate need, and what they leave as a whole."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        params = load_params(Params, TINY, (), OVERRIDES)
        prompts = execute(requests.prompts(params), self.store)
        student = execute(requests.warmstart(params, prompts.ref), self.store)
        held_out = execute(requests.harvest_held_out(params, prompts.ref), self.store)
        self.rollout = requests.rollout(params, prompts.ref, student.ref, 0)
        self.evaluate = requests.evaluate_final(
            params, prompts.ref, student.ref, student.ref, held_out.ref
        )
        self.whole = {asked.stage: execute(asked, self.store) for asked in self.requests}

    @property
    def requests(self) -> tuple[StageRequest, StageRequest]:
        return self.rollout, self.evaluate

    def fresh(self, root: Path) -> Store:
        """A store with the inputs alone."""
        for asked in self.requests:
            store = with_inputs(self.store, asked, root)
        return store


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("store"))


def files(store: Store, asked: StageRequest) -> list[Path]:
    return sorted(set(saved(store.work_path(asked.output)).values()))


@pytest.mark.parametrize("num_parts", [1, 2, 3, 5])
def test_any_number_of_parts_leaves_the_same_bytes(
    campaign: Campaign, tmp_path: Path, num_parts: int
) -> None:
    store = campaign.fresh(tmp_path)
    for asked in campaign.requests:
        assert missing(store, asked, num_parts) == list(range(num_parts))
        for index in reversed(range(num_parts)):
            compute_part(asked, store, Part(index=index, num_parts=num_parts))
            assert missing(store, asked, num_parts) == list(range(index))
        made = execute(asked, store, gather=num_parts)
        assert hashes(made) == hashes(campaign.whole[asked.stage])
        assert missing(store, asked, num_parts) == []
        assert not store.work_path(asked.output).exists()


def test_more_parts_than_batches_are_refused(campaign: Campaign, tmp_path: Path) -> None:
    assert max_parts(campaign.rollout) == 6
    assert max_parts(campaign.evaluate) == 6
    store = campaign.fresh(tmp_path)
    with pytest.raises(RefusedError, match="ask for 6 parts at most"):
        compute_part(campaign.rollout, store, Part(index=0, num_parts=7))
    other = campaign.rollout.model_copy(update={"stage": "update"})
    assert max_parts(other) == 1
    with pytest.raises(RefusedError, match="cannot be computed in parts"):
        compute_part(other, store, Part(index=0, num_parts=1))


def test_parts_of_another_number_still_count(campaign: Campaign, tmp_path: Path) -> None:
    store, asked = campaign.fresh(tmp_path), campaign.rollout
    compute_part(asked, store, Part(index=0, num_parts=2))  # batches 0, 1, 2
    assert missing(store, asked, 3) == [1, 2]
    with pytest.raises(LostError, match=r"3 of 6 batches are missing.*part\(s\) 1, 2 of 3 again"):
        execute(asked, store, gather=3)
    assert hashes(execute(asked, store)) == hashes(campaign.whole["rollout"])  # the rest, here


def test_a_damaged_or_lost_part_alone_is_computed_again(
    campaign: Campaign, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, asked = campaign.fresh(tmp_path), campaign.rollout
    for index in range(3):
        compute_part(asked, store, Part(index=index, num_parts=3))
    first, second, third = files(store, asked)
    content = bytearray(second.read_bytes())
    content[-3] ^= 1
    second.write_bytes(content)
    third.unlink()
    with pytest.raises(LostError, match=r"part\(s\) 1, 2 of 3 again"):
        execute(asked, store, gather=3)
    assert f"{second} is damaged" in capfd.readouterr().err
    assert missing(store, asked, 3) == [1, 2]
    stamp = first.stat().st_mtime_ns
    for index in (0, 1, 2):
        compute_part(asked, store, Part(index=index, num_parts=3))
    assert first.stat().st_mtime_ns == stamp
    assert hashes(execute(asked, store, gather=3)) == hashes(campaign.whole["rollout"])


def door(store: Store, folder: Path, asked: StageRequest, *more: str) -> Sequence[str]:
    file = folder / f"{asked.stage}.json"
    file.write_text(asked.model_dump_json())
    return [asked.stage, "--request", str(file), "--store", str(store.root), *more]


def test_the_door_knows_parts(
    campaign: Campaign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, asked = campaign.fresh(tmp_path / "s"), campaign.rollout
    for wrong in ("2/2", "-1/2", "x", "1"):
        assert main(door(store, tmp_path, asked, f"--part={wrong}")) == EXIT_CODE["refused"]
        assert "I/N" in capsys.readouterr().err
    assert main(door(store, tmp_path, asked, "--part", "0/2")) == 0
    assert main(door(store, tmp_path, asked, "--gather", "2")) == EXIT_CODE["lost"]
    assert "part(s) 1 of 2 again" in capsys.readouterr().err
    assert main(door(store, tmp_path, asked, "--part", "1/2")) == 0
    assert main(door(store, tmp_path, asked, "--gather", "2")) == 0
    assert Path(capsys.readouterr().out.strip()) == store.path(asked.output)
    assert main(door(store, tmp_path, asked, "--part", "1/2")) == 0  # nothing left to do


@pytest.mark.parametrize("failpoint", ["checkpoint.before_rename:2", "batches.passed:2"])
def test_a_killed_part_loses_a_batch_at_most(
    campaign: Campaign, forge: Forge, tmp_path: Path, failpoint: str
) -> None:
    """Kept after every batch here; killed in the second: one is there, whole, and stays."""
    store, asked = campaign.fresh(tmp_path), campaign.rollout
    killed = forge.start(asked, store, "--part", "0/2", AFD_FAILPOINT=failpoint)
    assert killed.wait() == -signal.SIGKILL
    kept = files(store, asked)
    assert len(kept) == (1 if "rename" in failpoint else 2)
    assert missing(store, asked, 2) == [0, 1]
    for index in range(2):
        compute_part(asked, store, Part(index=index, num_parts=2))
    assert set(kept) < set(files(store, asked))
    assert hashes(execute(asked, store, gather=2)) == hashes(campaign.whole["rollout"])


def test_a_whole_stage_that_is_told_to_stop_goes_on_from_its_batches(
    campaign: Campaign, forge: Forge, tmp_path: Path
) -> None:
    store, asked = campaign.fresh(tmp_path), campaign.rollout
    stopped = forge.start(
        asked,
        store,
        AFD_FAILPOINT="batches.passed:2:SIGTERM",
        AFD_CHECKPOINT_PERIOD_S="100",
    )
    assert stopped.wait() == EXIT_CODE["stopped"]
    assert "3 of 6 batches are kept" in stopped.log
    assert "run the same command again to go on from there" in stopped.log
    assert missing(store, asked, 6) == [3, 4, 5]
    assert hashes(execute(asked, store)) == hashes(campaign.whole["rollout"])


@pytest.fixture
def held(campaign: Campaign, tmp_path: Path) -> Iterator[Store]:
    """A store in which somebody else computes part 1 of 2."""
    store = campaign.fresh(tmp_path)
    locks = store.work_path(campaign.rollout.output) / "parts"
    locks.mkdir(parents=True)
    with (locks / "1-of-2.lock").open("a+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield store


def test_parts_are_computed_side_by_side_each_by_one(campaign: Campaign, held: Store) -> None:
    with pytest.raises(BusyError):
        compute_part(campaign.rollout, held, Part(index=1, num_parts=2))
    compute_part(campaign.rollout, held, Part(index=0, num_parts=2))
    assert missing(held, campaign.rollout, 2) == [1]
