"""The causal Wan student against stock Wan, against itself in its other mode, and its causality."""

from itertools import product

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Generator, Tensor, nn

from afd.config import CausalWanParams
from afd.flow import path
from afd.flow.solver import rollout
from afd.flow.times import draw_times, step_list
from afd.latents import LatentGeometry
from afd.students.averaging import frozen_copy
from afd.students.causal_wan import CausalWan
from afd.students.initialisation import build

STEPS = step_list(4, 3)
POCKET = (LatentGeometry(12, 4, 1, 1, 1), 1)  # one token a block
GRID = (LatentGeometry(3, 6, 2, 4, 6), 2)  # two frames of 2x3 patches a block
WIDE = (LatentGeometry(4, 3, 1, 3, 2), 1)


def params(head_dim: int = 10, prediction: str = "velocity") -> CausalWanParams:
    return CausalWanParams.model_validate(
        {
            "family": "causal_wan",
            "num_layers": 2,
            "num_heads": 2,
            "head_dim": head_dim,
            "ffn_dim": 24,
            "freq_dim": 16,
            "text_dim": 7,
            "num_text_tokens": 5,
            "prediction": prediction,
            "init_gate": 0.5,
            "latent_frames_per_block": 1,
            "num_steps": 4,
            "shift": 3.0,
            "codec": {"kind": "patch", "frames": 4, "components": None, "whitening": 0.0},
        }
    )


def student(case: tuple[LatentGeometry, int], **changes: object) -> CausalWan:
    """A student all of whose weights matter: no zero projection, no zero bias."""
    geometry, patch = case
    model = build(params(**changes), geometry, Generator().manual_seed(0), patch)
    generator = Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def inputs(geometry: LatentGeometry, batch: int = 2) -> dict[str, Tensor]:
    generator = Generator().manual_seed(2)
    text = torch.randn(batch, 5, 7, generator=generator)
    text[:, 3:] = 0  # padding, as the encoder leaves it
    return {
        "noisy": torch.randn(geometry.shape(batch), generator=generator),
        "t": draw_times("steps", batch, geometry.num_blocks, generator, steps=STEPS),
        "text": text,
        "clean": torch.randn(geometry.shape(batch), generator=generator),
    }


def stock(model: CausalWan) -> WanTransformer3DModel:
    """diffusers' own class with the same weights; its time sinusoid in float64 as in ours."""
    twin = WanTransformer3DModel.from_config(model.config)
    twin.load_state_dict(model.state_dict(), strict=True)

    class Sinusoid(nn.Module):
        def forward(self, timesteps: Tensor) -> Tensor:
            size = model.config.freq_dim
            half = torch.arange(size // 2, dtype=torch.float64) / (size // 2)
            angles = timesteps.double()[:, None] * 10000**-half
            ours = torch.cat([angles.cos(), angles.sin()], dim=1).float()
            theirs = get_timestep_embedding(timesteps, size, True, 0)
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)  # float32 angles of 1000
            return ours

    twin.condition_embedder.timesteps_proj = Sinusoid()
    return twin


def assert_equal_in_float32(ours: Tensor, theirs: Tensor) -> None:
    """To 3e-6 of the largest value: CPUs differ in the order of their sums."""
    largest = max(1.0, theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, atol=3e-6 * largest, rtol=0)


# ------------------------------------------------------------------------- stock Wan


@pytest.mark.parametrize("case", [POCKET, GRID, WIDE])
@pytest.mark.parametrize("head_dim", [10, 12, 16])  # 10 and 16 split unevenly over the three axes
def test_without_context_it_is_stock_wan(case, head_dim: int):
    model = student(case, head_dim=head_dim)
    given = inputs(case[0])
    timestep = torch.tensor([900.0, 312.5])
    with torch.no_grad():
        ours = model(given["noisy"], timestep, given["text"]).sample
        theirs = stock(model)(given["noisy"], timestep, given["text"]).sample
    assert_equal_in_float32(ours, theirs)


def test_per_frame_timesteps_are_stock_wans_per_token_timesteps():
    geometry, _ = GRID
    model, given = student(GRID), inputs(geometry)
    timestep = 1000 * torch.rand(2, 6, generator=Generator().manual_seed(3))
    with torch.no_grad():
        ours = model(given["noisy"], timestep, given["text"]).sample
        tokens = timestep.repeat_interleave(2 * 3, dim=1)
        theirs = stock(model)(given["noisy"], tokens, given["text"]).sample
    assert_equal_in_float32(ours, theirs)


def test_weights_keys_and_config_are_stock_wans(tmp_path):
    model, given = student(GRID), inputs(GRID[0])
    model.save_pretrained(tmp_path)
    stock_model = WanTransformer3DModel.from_pretrained(tmp_path)
    assert stock_model.state_dict().keys() == model.state_dict().keys()
    reloaded = CausalWan.from_pretrained(tmp_path).configure(GRID[0])
    with torch.no_grad():
        assert torch.equal(model.velocity(**given), reloaded.velocity(**given))


# ------------------------------------------------------------- one pass, many blocks


def dense_mask(geometry: LatentGeometry, patches: int) -> Tensor:
    """Who may see whom over [all clean | all noisy] tokens, written out pair by pair."""
    size = geometry.latent_frames_per_block * patches
    blocks = [(kind, block) for kind in ("clean", "noisy") for block in range(geometry.num_blocks)]
    tokens = [owner for owner in blocks for _ in range(size)]
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for (row, (kind, block)), (column, (seen_kind, seen)) in product(
        enumerate(tokens), enumerate(tokens)
    ):
        if kind == "clean":
            mask[row, column] = seen_kind == "clean" and seen <= block
        else:
            past = seen_kind == "clean" and seen < block
            mask[row, column] = past or (seen_kind == "noisy" and seen == block)
    return mask


def masked_stock_velocity(model: CausalWan, patch: int, given: dict[str, Tensor]) -> Tensor:
    """The parallel pass by stock Wan alone: a dense mask and rotary tables repeated."""
    geometry, twin = model.geometry, stock(model)
    patches = (geometry.height // patch) * (geometry.width // patch)
    mask = dense_mask(geometry, patches)

    class Masked(WanAttnProcessor):
        def __call__(self, attn, hidden, text=None, attention_mask=None, rotary_emb=None):
            mask_here = mask if text is None else None
            return super().__call__(attn, hidden, text, mask_here, rotary_emb)

    class Repeated(nn.Module):
        def __init__(self, rope: nn.Module) -> None:
            super().__init__()
            self.rope = rope

        def forward(self, both: Tensor) -> tuple[Tensor, ...]:
            half = both[:, :, : both.shape[2] // 2]
            return tuple(torch.cat([table, table], dim=1) for table in self.rope(half))

    for block in twin.blocks:
        block.attn1.set_processor(Masked())
    twin.rope = Repeated(twin.rope)
    times = given["t"].repeat_interleave(geometry.latent_frames_per_block, dim=1)
    timestep = 1000 * torch.cat([torch.zeros_like(times), times], dim=1)
    both = torch.cat([given["clean"], given["noisy"]], dim=2)
    output = twin(both, timestep.repeat_interleave(patches, dim=1), given["text"]).sample
    return output[:, :, geometry.num_latent_frames :]


@pytest.mark.parametrize("case", [POCKET, GRID, WIDE])
@pytest.mark.parametrize("head_dim", [10, 12])
def test_the_parallel_pass_is_stock_wan_under_a_dense_mask(case, head_dim: int):
    model, given = student(case, head_dim=head_dim), inputs(case[0])
    with torch.no_grad():
        expected = masked_stock_velocity(model, case[1], given)
        torch.testing.assert_close(model.velocity(**given), expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("case", [POCKET, GRID, WIDE])
@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_cached_blocks_equal_the_parallel_pass(case, prediction: str):
    geometry, _ = case
    model, given = student(case, prediction=prediction), inputs(geometry)
    with torch.no_grad():
        parallel = model.velocity(**given)
        cache = model.start(given["text"])
        for block in range(geometry.num_blocks):
            frames = geometry.block_frames(block)
            for _ in range(2):  # a pass that is not committed leaves no trace
                velocity = model.block_velocity(
                    given["noisy"][:, :, frames], given["t"][:, block], cache
                )
            torch.testing.assert_close(velocity, parallel[:, :, frames], atol=5e-6, rtol=0)
            model.commit(given["clean"][:, :, frames], cache)


def test_a_rollout_sees_in_training_what_it_saw_while_sampling():
    """Every velocity the sampler used comes back from one parallel pass on the finished clip."""
    geometry, _ = GRID
    model, given = student(GRID), inputs(geometry)
    noise = torch.randn(2, 4, *geometry.shape(2)[1:], generator=Generator().manual_seed(4))
    seen: dict[int, list[tuple[Tensor, float, Tensor]]] = {}
    plain = model.block_velocity

    def watching(noisy: Tensor, t: Tensor, cache) -> Tensor:
        velocity = plain(noisy, t, cache)
        seen.setdefault(cache.num_blocks, []).append((noisy, t[0].item(), velocity))
        return velocity

    model.block_velocity = watching
    latents = rollout(model, given["text"], noise, STEPS)
    with torch.no_grad():
        for step, time in enumerate(STEPS):
            noisy = torch.cat([seen[block][step][0] for block in range(3)], dim=2)
            sampled = torch.cat([seen[block][step][2] for block in range(3)], dim=2)
            assert all(seen[block][step][1] == pytest.approx(time) for block in range(3))
            again = model.velocity(noisy, torch.full((2, 3), time), given["text"], latents)
            torch.testing.assert_close(again, sampled, atol=5e-6, rtol=0)


def test_a_sample_does_not_depend_on_its_batch():
    geometry, _ = GRID
    model, given = student(GRID), inputs(geometry, batch=3)
    noise = torch.randn(3, 4, *geometry.shape(3)[1:], generator=Generator().manual_seed(5))
    together = rollout(model, given["text"], noise, STEPS)
    alone = rollout(model, given["text"][1:2], noise[1:2], STEPS)
    torch.testing.assert_close(together[1:2], alone, atol=5e-6, rtol=0)


# ------------------------------------------------------------------------- causality


@pytest.mark.parametrize("case", [POCKET, GRID])
def test_block_i_depends_on_earlier_clean_blocks_and_its_own_noisy_block_only(case):
    geometry, _ = case
    model, given = student(case), inputs(geometry, batch=1)
    noisy, clean = (given[name].requires_grad_() for name in ("noisy", "clean"))
    t = given["t"].requires_grad_()
    velocity = model.velocity(noisy, t, given["text"], clean)
    for block in range(geometry.num_blocks):
        of_block = velocity[:, :, geometry.block_frames(block)].square().sum()
        from_noisy, from_clean, from_t = torch.autograd.grad(
            of_block, (noisy, clean, t), retain_graph=True
        )
        for other in range(geometry.num_blocks):
            frames = geometry.block_frames(other)
            matters = {
                "noisy": from_noisy[:, :, frames].abs().max() > 0,
                "clean": from_clean[:, :, frames].abs().max() > 0,
                "t": from_t[:, other].abs().max() > 0,
            }
            own = other == block
            assert matters == {"noisy": own, "clean": other < block, "t": own}, (block, other)


def test_a_changed_future_changes_nothing_bitwise():
    geometry, _ = GRID
    model, given = student(GRID), inputs(geometry)
    changed = {name: value.clone() for name, value in given.items()}
    changed["noisy"][:, :, 4:] += 1
    changed["clean"][:, :, 2:] += 1
    changed["t"][:, 2] = 0.123
    with torch.no_grad():
        before, after = model.velocity(**given), model.velocity(**changed)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4:], after[:, :, 4:])


# ------------------------------------------------------------------ head, gradients


def test_clean_prediction_is_the_same_network_read_as_a_clean_estimate():
    geometry, _ = GRID
    given = inputs(geometry)
    with torch.no_grad():
        estimate = student(GRID, prediction="velocity").velocity(**given)
        velocity = student(GRID, prediction="clean").velocity(**given)
    recovered = path.clean_from_velocity(given["noisy"], velocity, given["t"])
    torch.testing.assert_close(recovered, estimate, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_parameter(checkpointing: bool):
    model, given = student(GRID), inputs(GRID[0])
    if checkpointing:
        model.enable_gradient_checkpointing()
    model.velocity(**given).square().mean().backward()
    silent = [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None or weight.grad.abs().max() == 0
    ]
    assert not silent


def test_gradient_checkpointing_changes_no_gradient():
    given = inputs(GRID[0])
    gradients = []
    for checkpointing in (False, True):
        model = student(GRID)
        if checkpointing:
            model.enable_gradient_checkpointing()
        loss = model.velocity(**given).square().mean()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


def test_gradients_flow_through_a_cached_block():
    """What the adversarial arm needs: the last denoising step, differentiable after history."""
    geometry, _ = GRID
    model, given = student(GRID), inputs(geometry)
    weights = list(model.parameters())
    cache = model.start(given["text"])
    model.commit(given["clean"][:, :, :2], cache)
    velocity = model.block_velocity(given["noisy"][:, :, 2:4], given["t"][:, 1], cache)
    gradients = torch.autograd.grad(velocity.square().sum(), weights)
    # the same block as the only one that varies in a parallel pass with detached history
    probe = given["noisy"][:, :, 2:4].clone().requires_grad_()
    noisy = torch.cat([given["noisy"][:, :, :2], probe, given["noisy"][:, :, 4:]], dim=2)
    parallel = model.velocity(noisy, given["t"], given["text"], given["clean"])[:, :, 2:4]
    torch.testing.assert_close(velocity, parallel, atol=5e-6, rtol=0)
    assert sum(gradient.abs().max() > 0 for gradient in gradients) == len(weights)


# ------------------------------------------------------------------------- building


def test_a_fresh_student_depends_on_its_seed_alone():
    state = torch.random.get_rng_state()
    first = build(params(), GRID[0], Generator().manual_seed(7), 2).state_dict()
    again = build(params(), GRID[0], Generator().manual_seed(7), 2).state_dict()
    other = build(params(), GRID[0], Generator().manual_seed(8), 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_fresh_student_predicts_zero_whatever_it_is_shown():
    geometry, patch = GRID
    model = build(params(), geometry, Generator().manual_seed(0), patch)
    assert (model.velocity(**inputs(geometry)) == 0).all()


def test_every_weight_of_a_fresh_student_comes_from_the_generator():
    """Were one tensor left to diffusers' own initialisation, the global seed would show."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(build(params(), GRID[0], Generator().manual_seed(0), 2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_copy_moves_apart_from_its_original():
    model, given = student(POCKET), inputs(POCKET[0])
    reference = frozen_copy(model)
    with torch.no_grad():
        before = reference.velocity(**given)
        for weight in model.parameters():
            weight.add_(0.1)
        assert torch.equal(reference.velocity(**given), before)
        assert not torch.equal(model.velocity(**given), before)
    assert reference.geometry == model.geometry


def test_bfloat16_stays_close_to_float32():
    model, given = student(GRID), inputs(GRID[0])
    with torch.no_grad():
        exact = model.velocity(**given)
        half = {name: value.bfloat16() for name, value in given.items() if name != "t"}
        rough = frozen_copy(model).to(torch.bfloat16).velocity(t=given["t"], **half)
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.05


def test_misuse_is_refused_by_name():
    geometry, _ = GRID
    model, given = student(GRID), inputs(geometry)
    with pytest.raises(ValueError, match="latents have 9 channels: in_channels is 3"):
        model.configure(LatentGeometry(9, 6, 2, 4, 6))
    with pytest.raises(ValueError, match="3x6 do not divide into patches of 2x2"):
        model.configure(LatentGeometry(3, 6, 2, 3, 6))
    with pytest.raises(RuntimeError, match="call configure"):
        CausalWan.from_config(model.config).velocity(**given)
    cache = model.start(given["text"])
    for block in range(3):
        model.commit(given["clean"][:, :, geometry.block_frames(block)], cache)
    with pytest.raises(ValueError, match="all are committed"):
        model.commit(given["clean"][:, :, :2], cache)
