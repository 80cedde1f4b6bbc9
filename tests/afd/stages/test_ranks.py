"""fit and update by several real processes over gloo, against one process."""

import json
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from afd import seeds
from afd.artifacts import Artifact
from afd.config import ConvDiscriminator, Params
from afd.discriminators import conv
from afd.discriminators.discriminator import Setting
from afd.errors import EXIT_CODE
from afd.params import load_params
from afd.runtime.ranks import ALONE, Ranks
from afd.runtime.request import StageRequest
from afd.stages import fit, objectives, requests, update, update_data
from afd.stages.execute import execute
from afd.store import Store
from afd.video.canonical import canonical_format
from tests.afd.stages.conftest import Forge, Run, hashes, with_inputs

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
# Of a tensor's largest number. Only the order of sums differs, by 1e-7; Adam divides by the root of
# second moments, near nothing for pixels that hardly count. Measured after 5 steps of fit:
# 7e-7, after 4 of update: 2e-4 (3e-6 absolute, where learning has moved weights by 1e-3).
TOLERANCE = 1e-3
# A pair's loss does not depend on the score's constant: its gradient is rounding, which Adam scales
# up to whole steps. No difference of scores is touched by it.
FREE = "head.bias"


class Campaign:
    """A tiny round up to fit and update, each by one process; in a second round with replay."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.params = params = load_params(Params, TINY, (), ["num_rounds=1"])
        prompts = self.make(requests.prompts(params))
        student = self.make(requests.warmstart(params, prompts.ref))
        clips = self.make(requests.harvest_round(params, prompts.ref, 0))
        rollouts = self.make(requests.rollout(params, prompts.ref, student.ref, 0))
        self.fit = requests.fit(params, [clips.ref], [rollouts.ref], None, 0)
        judge = self.make(self.fit)
        self.update = requests.update(
            params, [clips.ref], rollouts.ref, judge.ref, student.ref, student.ref, 0
        )
        self.make(self.update)

    def make(self, asked: StageRequest) -> Artifact:
        return execute(asked, self.store)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("store"))


def start(
    forge: Forge, asked: StageRequest, store: Store, num_ranks: int, **of_one: dict[str, str]
) -> list[Run]:
    """The ranks; `of_one` gives one of them (rank_1, ...) an environment of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"AFD_WORLD_SIZE": str(num_ranks), "AFD_RENDEZVOUS": meeting}
    return [
        forge.start(asked, store, **shared, AFD_RANK=str(rank), **of_one.get(f"rank_{rank}", {}))
        for rank in range(num_ranks)
    ]


class Share(Ranks):
    """A rank that keeps to itself the gradients of its share."""

    def sum_gradients(self, parameters: object) -> None: ...

    def mean(self, metrics: Mapping[str, Tensor], num_rows: int) -> dict[str, float]:
        return {}


def fit_gradients(campaign: Campaign, ranks: Ranks) -> list[Tensor]:
    """Of R1, wrong prompts and noise on one batch of random pairs."""
    setting = Setting(num_frames=8, frame_size=16, text_dim=6)
    draw = seeds.generator(1, "pairs")
    params = campaign.params.discriminator
    assert isinstance(params, ConvDiscriminator)
    model = conv.build(params, setting, lambda _: torch.zeros(0), draw).double()
    clips = torch.rand(2, 10, 8, 3, 16, 16, generator=draw, dtype=torch.float64)
    text = torch.randn(10, 4, 6, generator=draw, dtype=torch.float64)
    pairs = fit.PairBatch(clips[0], clips[1], text)
    fit.accumulate(model, pairs, campaign.params.fit, draw, ranks)
    return [p.grad for p in model.parameters() if p.grad is not None]


def update_gradients(campaign: Campaign, ranks: Ranks) -> list[Tensor]:
    """Of the loss on one batch of a student's own rollouts."""
    asked, store = campaign.update, campaign.store
    inputs = {role: store.load(ref) for role, ref in asked.inputs.items()}
    own = campaign.params.update
    loaded, models = update.gather(asked.params, inputs)
    data = update_data.from_rollouts(
        inputs, store, canonical_format(asked.params), loaded, models.behaviour, own, 1, 0
    )
    data = replace(
        data,
        clean=data.clean.double(),
        text=data.text.double(),
        weight=data.weight.double(),
    )
    for model in (models.student, models.average, models.behaviour, models.reference):
        model.double()
    batch, draw = torch.arange(len(data.clean)), seeds.generator(1, "batch")
    loss = objectives.build(own, models, data)
    update.accumulate(loss, batch, draw, ranks, models.weights)
    return [p.grad for p in models.weights.parameters() if p.grad is not None]


@pytest.mark.parametrize("gradients", [fit_gradients, update_gradients])
@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_gradients_of_the_shares_add_up_in_double_precision(
    campaign: Campaign, gradients: Callable[[Campaign, Ranks], list[Tensor]], num_ranks: int
) -> None:
    """Without Adam in the way: all that is drawn is that of the whole batch."""
    whole = gradients(campaign, ALONE)
    shares = [gradients(campaign, Share(index, num_ranks)) for index in range(num_ranks)]
    size = max(gradient.abs().max().item() for gradient in whole)
    for gradient, *parts in zip(whole, *shares, strict=True):
        apart = (torch.stack(parts).sum(dim=0) - gradient).abs().max().item()
        assert apart < 1e-6 * size


def largest_difference(one: Artifact, other: Artifact) -> float:
    """Over all tensors of two artifacts, each in units of its largest number."""
    assert one.manifest.files.keys() == other.manifest.files.keys()
    worst = 0.0
    for name in one.manifest.files:
        if name.endswith(".safetensors"):
            ours, theirs = load_file(one.file(name)), load_file(other.file(name))
            assert ours.keys() == theirs.keys()
            for key in (key for key in ours if FREE not in key):
                apart, size = (ours[key] - theirs[key]).abs().max(), theirs[key].abs().max()
                worst = max(worst, (apart / size.clamp_min(1e-12)).item())
    return worst


def curves(made: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("stage", ["fit", "update"])
def test_ranks_leave_what_one_process_leaves(
    campaign: Campaign, forge: Forge, tmp_path: Path, stage: str, num_ranks: int
) -> None:
    """3 does not divide the batch: shares differ."""
    asked: StageRequest = getattr(campaign, stage)
    store = with_inputs(campaign.store, asked, tmp_path)
    ranks = start(forge, asked, store, num_ranks)
    assert [rank.wait() for rank in ranks] == [0] * num_ranks, ranks[0].log
    made, whole = store.load(asked.output), campaign.store.load(asked.output)
    assert made.manifest.made_by.num_ranks == num_ranks
    assert whole.manifest.made_by.num_ranks == 1
    assert 0 < largest_difference(made, whole) < TOLERANCE
    for ours, theirs in zip(curves(made), curves(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_a_killed_rank_ends_the_others_and_the_next_attempt_ends_alike(
    campaign: Campaign, forge: Forge, tmp_path: Path
) -> None:
    asked = campaign.update
    whole = with_inputs(campaign.store, asked, tmp_path / "whole")
    assert [rank.wait() for rank in start(forge, asked, whole, 2)] == [0, 0]
    store = with_inputs(campaign.store, asked, tmp_path / "killed")
    ranks = start(forge, asked, store, 2, rank_1={"AFD_FAILPOINT": "update.step:2"})
    assert ranks[1].wait() == -signal.SIGKILL
    assert ranks[0].wait(timeout_s=20) == EXIT_CODE["lost"]
    assert "another rank is gone" in ranks[0].log
    assert "Traceback" not in ranks[0].log
    again = start(forge, asked, store, 2)
    assert [rank.wait() for rank in again] == [0, 0]
    assert "resumed from step" in again[0].log
    assert hashes(store.load(asked.output)) == hashes(whole.load(asked.output))


def test_all_ranks_stop_after_the_same_step(
    campaign: Campaign, forge: Forge, tmp_path: Path
) -> None:
    """Only one of them is told to; the step is kept, and another number of ranks goes on."""
    asked = campaign.fit
    store = with_inputs(campaign.store, asked, tmp_path)
    slow = {"AFD_CHECKPOINT_PERIOD_S": "1000"}
    told = slow | {"AFD_FAILPOINT": "fit.step:2:SIGTERM"}
    ranks = start(forge, asked, store, 2, rank_0=slow, rank_1=told)
    assert [rank.wait() for rank in ranks] == [EXIT_CODE["stopped"]] * 2
    assert "step 2 is kept" in ranks[0].log
    again = forge.start(asked, store)
    assert again.wait() == 0
    assert "resumed from step 2 " in again.log
    assert (
        largest_difference(store.load(asked.output), campaign.store.load(asked.output)) < TOLERANCE
    )


def test_a_loss_that_is_not_finite_is_decided_alike(
    campaign: Campaign, forge: Forge, tmp_path: Path
) -> None:
    params = campaign.fit.params | {"fit": campaign.fit.params["fit"] | {"learning_rate": 1e30}}
    asked = campaign.fit.model_copy(update={"params": params})
    store = with_inputs(campaign.store, asked, tmp_path)
    ranks = start(forge, asked, store, 2)
    assert [rank.wait() for rank in ranks] == [EXIT_CODE["failed"]] * 2
    assert all("lower fit.learning_rate" in rank.log for rank in ranks)


def test_ranks_with_nothing_to_do_leave_with_the_first(
    campaign: Campaign, forge: Forge, tmp_path: Path
) -> None:
    ranks = start(forge, campaign.fit, campaign.store, 2)
    assert [rank.wait() for rank in ranks] == [0, 0]
    asked = campaign.update
    store = with_inputs(campaign.store, asked, tmp_path)
    store.path(asked.inputs["discriminator"]).unlink()
    ranks = start(forge, asked, store, 2)
    assert [rank.wait() for rank in ranks] == [EXIT_CODE["store"]] * 2
    assert "not made yet" in ranks[0].log


def test_what_ranks_cannot_share_is_refused(
    campaign: Campaign, forge: Forge, tmp_path: Path
) -> None:
    small = campaign.fit.params["fit"] | {"batch_size": 2}
    asked = campaign.fit.model_copy(update={"params": campaign.fit.params | {"fit": small}})
    store = with_inputs(campaign.store, asked, tmp_path)
    ranks = start(forge, asked, store, 3)
    assert [rank.wait() for rank in ranks] == [EXIT_CODE["refused"]] * 3
    assert "a batch of 2 cannot be shared by 3 ranks" in ranks[0].log
    half = forge.start(asked, store, AFD_RANK="1")
    assert half.wait() == EXIT_CODE["refused"]
    assert "set all of AFD_RANK" in half.log
