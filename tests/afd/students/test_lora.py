"""One network that plays everybody: who plays when, what trains, and what stock diffusers makes of
the LoRA that comes out."""

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from afd.config import LoraParams
from afd.students import lora
from afd.students.causal_wan import CausalWan, RunOptions
from afd.students.layouts import to_diffusers, to_original
from afd.students.strict_loading import CheckpointError, weights_sha256
from afd.students.wan_checkpoints import load_wan
from tests.afd.students.original_wan import OriginalWan
from tests.afd.students.test_original import CASES, given, pair

PARAMS = LoraParams(rank=3, alpha=5.0, targets="all")
CASE, PLAIN = CASES[0], RunOptions()


def adapted(options: RunOptions = PLAIN, targets: str = "all") -> CausalWan:
    """A student whose LoRA has been trained a little: B is not zero."""
    model = pair(CASE, options)[1]
    params = PARAMS.model_copy(update={"targets": targets})
    lora.add_adapter(model, "behaviour", params)
    lora.add_adapter(model, "student", params, Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".student." in name and "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=Generator().manual_seed(2)))
    return model


def velocity(model, **changes) -> Tensor:
    noisy, clean, text, timestep = given(CASE)
    return model.velocity(noisy, timestep[:, ::3] / 1000, text, clean)


def test_a_new_adapter_changes_nothing():
    model, expected = pair(CASE)[1], velocity(pair(CASE)[1])
    lora.add_adapter(model, "student", PARAMS, Generator().manual_seed(1))
    assert torch.equal(velocity(model), expected)
    again = pair(CASE)[1]
    state = torch.get_rng_state()
    lora.add_adapter(again, "student", PARAMS, Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())
    first, second = (lora.adapter_state(m, "student") for m in (model, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_reference_is_the_base_and_behaviour_a_synchronised_copy(targets: str):
    base = velocity(pair(CASE)[1])
    model = adapted(targets=targets)
    lora.activate(model, "student", trains=True)
    student = velocity(model)
    assert (student - base).abs().max() > 1e-3
    assert torch.equal(velocity(lora.AdapterView(model, None)), base)
    assert torch.equal(velocity(lora.AdapterView(model, "behaviour")), base)  # not synchronised yet
    lora.load_adapter(model, "behaviour", lora.adapter_state(model, "student"), "the student")
    fingerprint = weights_sha256(lora.adapter_state(model, "behaviour"))
    assert fingerprint == weights_sha256(lora.adapter_state(model, "student"))
    assert torch.equal(velocity(lora.AdapterView(model, "behaviour")), student)
    assert torch.equal(velocity(model), student)  # the student is back after each of them
    with torch.no_grad():
        next(iter(lora.trained_weights(model, "student").parameters())).add_(1e-3)
    assert weights_sha256(lora.adapter_state(model, "student")) != fingerprint


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("context_gradient", [False, True])
def test_only_the_student_trains_whoever_else_plays(checkpointing: bool, context_gradient: bool):
    """The gradient is that of a lone network, though others play between forward and backward."""
    options = RunOptions(context_gradient=context_gradient)
    gradients = []
    for others in (False, True):
        model = adapted(options).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        lora.activate(model, "student", trains=True)
        trained = lora.trained_weights(model, "student")
        assert {id(p) for p in trained.parameters()} == {
            id(p) for p in model.parameters() if p.requires_grad
        }
        loss = velocity(model).square().mean()
        if others:
            velocity(lora.AdapterView(model, "behaviour"))
            velocity(lora.AdapterView(model, None))
        loss.backward()
        gradients.append({name: p.grad for name, p in trained.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * 2 * 10
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert all(grad is not None and grad.abs().max() > 0 for grad in gradients[0].values())


def test_adapters_come_back_or_are_refused():
    model, state = adapted(), lora.adapter_state(adapted(), "student")
    lora.load_adapter(model, "behaviour", state, "here")
    found = lora.adapter_state(model, "behaviour")
    assert all(torch.equal(found[name], state[name]) for name in state)
    state.pop(sorted(state)[0])
    with pytest.raises(CheckpointError, match=r"1 tensor\(s\) do not fit this LoRA\n  - missing"):
        lora.load_adapter(model, "behaviour", state, "here")
    half = {name: value[:1] for name, value in found.items()}
    with pytest.raises(CheckpointError, match=r"is \[1, 24\], not \[3, 24\]"):
        lora.load_adapter(model, "behaviour", half, "here")


# -------------------------------------------------------------------- what others make of it


@torch.no_grad()
def test_stock_diffusers_loads_the_exported_lora(tmp_path: Path):
    model = adapted()
    noisy, _, text, timestep = given(CASE)
    lora.activate(model, "student")
    ours = model(noisy, timestep[:, 0], text, return_dict=False)[0]
    file = lora.export_lora(model, "student", tmp_path)
    for loaded_by in ("pipeline", "transformer"):
        stock = WanTransformer3DModel.from_config(model.config)
        stock.load_state_dict(to_diffusers(pair(CASE)[0].state_dict()))
        before = stock(noisy, timestep[:, 0], text, return_dict=False)[0]
        if loaded_by == "pipeline":
            WanPipeline(None, None, None, None, transformer=stock).load_lora_weights(tmp_path)
        else:
            stock.load_lora_adapter(tmp_path, weight_name=file.name)
        theirs = stock(noisy, timestep[:, 0], text, return_dict=False)[0]
        torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
        assert (theirs - before).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_reader_without_metadata_has_the_full_strength(tmp_path: Path, layout: str):
    """alpha 5 at rank 3 stands in the tensors themselves, under either set of names."""
    model = adapted()
    noisy, _, text, timestep = given(CASE)
    lora.activate(model, "student")
    ours = model(noisy, timestep[:, 0], text, return_dict=False)[0]
    write = lora.export_lora if layout == "diffusers" else lora.export_original_lora
    tensors = load_file(write(model, "student", tmp_path))
    save_file(tensors, tmp_path / "bare.safetensors")  # no metadata any more
    stock = WanTransformer3DModel.from_config(model.config)
    stock.load_state_dict(to_diffusers(pair(CASE)[0].state_dict()))
    pipeline = WanPipeline(None, None, None, None, transformer=stock)
    pipeline.load_lora_weights(tmp_path, weight_name="bare.safetensors")
    theirs = stock(noisy, timestep[:, 0], text, return_dict=False)[0]
    torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=0)
    if layout == "original":  # as a reader of these names alone adds it
        state = {name: t.clone() for name, t in pair(CASE)[0].state_dict().items()}
        for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
            layer = name.removeprefix("diffusion_model.").removesuffix(".lora_A.weight")
            up = tensors[name.replace("lora_A", "lora_B")]
            state[f"{layer}.weight"] += up @ tensors[name]
        merged = lora.merged(model, "student")
        for name, value in to_original(merged).items():
            torch.testing.assert_close(state[name], value, atol=1e-5, rtol=0)
    assert "rank 3 on 20 linear layers" in lora.described(model, "student")
    assert "strength 1" in lora.described(model, "student")


@torch.no_grad()
def test_merged_weights_in_both_layouts_are_the_student(tmp_path: Path):
    model = adapted()
    lora.activate(model, "student")
    expected = velocity(model)
    state = lora.merged(model, "student")
    plain = pair(CASE)[1]
    plain.load_state_dict(state)
    torch.testing.assert_close(velocity(plain), expected, atol=1e-5, rtol=0)
    original = OriginalWan()
    original.load_state_dict(to_original(state))
    save_file(to_original(state), tmp_path / "merged.safetensors")
    loaded = load_wan(tmp_path / "merged.safetensors", CASE[0]).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in loaded)
    assert loaded.keys() == state.keys()


@torch.no_grad()
def test_what_was_learned_survives_the_export_of_a_bfloat16_network():
    """A change below bfloat16's own step would be rounded away, or up."""
    model = adapted()
    fine = {
        name: weight.mul(1e-3) if ".lora_B" in name else weight
        for name, weight in lora.adapter_state(model, "student").items()
    }
    lora.load_adapter(model, "student", fine, "fine")
    base = {n: w for n, w in model.state_dict().items() if ".lora_" not in n}
    whole = lora.merged(model, "student")
    for name, weight in model.named_parameters():
        if ".lora_" not in name:
            weight.data = weight.data.bfloat16()
    rounded = lora.merged(model, "student")
    learned = 0
    for name, weight in base.items():
        bare = name.replace(".base_layer.", ".")
        delta = whole[bare] - weight
        if delta.abs().max() > 0:
            learned += 1
            found = rounded[bare] - weight.bfloat16().float()
            torch.testing.assert_close(found, delta, atol=1e-6, rtol=1e-3)
    assert learned
