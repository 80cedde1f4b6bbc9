"""UMT5 against diffusers' own pipeline, and encoded prompts that come back from disk."""

from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from afd.text.cached import CachedText, save_encoded
from afd.text.encoder import TextError
from afd.text.umt5 import Umt5
from tests.afd.students.tiny_parts import TEXT_DIM, save_components

PROMPTS = ["a red ball falls", "two balls &amp; a  wall", "", "ein Kätzchen läuft"]


@pytest.fixture(scope="module")
def components(tmp_path_factory) -> Path:
    return save_components(tmp_path_factory.mktemp("wan"))


def test_prompts_are_encoded_as_wans_pipeline_does(components: Path):
    encoder = Umt5(components, 40)
    pipeline = WanPipeline(encoder._tokenizer, encoder._model, None, None)
    theirs = pipeline._get_t5_prompt_embeds(PROMPTS, max_sequence_length=40, device="cpu")
    ours = encoder(PROMPTS)
    assert ours.shape == (4, 40, TEXT_DIM) == (4, encoder.num_tokens, encoder.dim)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours[0, 17:].abs().max() == 0 and ours[0, 16].abs().max() > 0  # bytes and the end


def test_a_prompt_does_not_depend_on_its_batch(components: Path):
    encoder = Umt5(components, 40)
    together = encoder(PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(encoder([prompt])[0], together[row], atol=1e-5, rtol=0)


def test_too_long_prompts_are_told_together(components: Path):
    with pytest.raises(TextError, match=r"2 prompt\(s\) exceed 12 tokens.*17 tokens: 'a red"):
        Umt5(components, 12)(PROMPTS[:3])


def test_kept_prompts_come_back_and_others_are_refused(components: Path, tmp_path: Path):
    encoder, file = Umt5(components, 40), tmp_path / "text.safetensors"
    assert save_encoded(encoder, [*PROMPTS, PROMPTS[0]], file) == 4
    kept = CachedText(file, 40)
    torch.testing.assert_close(kept(PROMPTS[::-1]), encoder(PROMPTS[::-1]), atol=1e-5, rtol=0)
    assert (kept.num_tokens, kept.dim) == (40, TEXT_DIM)
    with pytest.raises(TextError, match=r"1 prompt\(s\) were not in the prompt set.*'another'"):
        kept([PROMPTS[0], "another"])


def test_missing_folders_and_tensors_are_named(components: Path, tmp_path: Path):
    with pytest.raises(TextError, match=r"text_encoder: there is no such folder"):
        Umt5(tmp_path, 40)
    save_components(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("encoder.final_layer_norm.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TextError, match=r"no whole UMT5 encoder.*final_layer_norm"):
        Umt5(tmp_path, 40)


def test_damaged_weights_are_named_with_their_file(tmp_path: Path):
    save_components(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors, whole = load_file(file), file.read_bytes()
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        TextError, match=r"model\.safetensors: encoder\.block\.0.*q\.weight holds NaN"
    ):
        Umt5(tmp_path, 40)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        TextError, match=r"model\.safetensors: holds no text encoder.*copy text_enc"
    ):
        Umt5(tmp_path, 40)


def test_prompts_that_become_nan_are_refused(components: Path):
    encoder = Umt5(components, 40)
    with torch.no_grad():  # finite weights whose products are not
        encoder._model.encoder.block[0].layer[0].SelfAttention.v.weight.fill_(3e38)
        encoder._model.encoder.block[0].layer[0].SelfAttention.o.weight.fill_(3e38)
    with pytest.raises(TextError, match=r"makes NaN or infinity of 'a red ball falls'"):
        encoder(PROMPTS)
