"""Comparison of arms against an effect that is known because it was put there."""

import numpy as np
import pandas as pd
import pytest

from afd.evaluation.comparison import CardError, Evaluation, compare

CARD = {"prompts": "abc", "num_frames": 16}
PROMPTS = [f"prompt {index}" for index in range(60)]


def judged(name: str, effect: float, seed: int, **card: object) -> Evaluation:
    """Prompts differ by 5, training seeds by .1, noise by .2; `effect` is what to find."""
    difficulty = np.random.default_rng(99).normal(0, 5, len(PROMPTS))
    rng = np.random.default_rng(seed)
    rows = [
        {
            "prompt_id": prompt,
            "prompt": prompt,
            "noise_seed": noise,
            "failed": False,
            "error": difficulty[index] + effect + rng.normal(0, 0.2),
            "constant": 1.0,
        }
        for noise in (11, 12)
        for index, prompt in enumerate(PROMPTS)
    ]
    return Evaluation(name, CARD | card, pd.DataFrame(rows))


def test_finds_the_effect_between_arms_of_three_training_seeds():
    first = [judged(f"afd-{seed}", 0.0, seed) for seed in (1, 2, 3)]
    second = [judged(f"sft-{seed}", 0.3 + 0.1 * seed, 10 + seed) for seed in (1, 2, 3)]
    error, constant = compare(first, second, num_resamples=999)
    assert error.paired.low is not None and error.paired.high is not None
    assert error.paired.low < 0.5 < error.paired.high
    assert error.paired.high - error.paired.low < 0.2  # pairing removes the prompts' spread of 5
    assert error.p_holm is not None and error.p_holm < 0.01
    assert constant.paired.mean == 0 and constant.p_holm == 1.0


def test_no_effect_is_no_finding():
    error, _ = compare([judged("a", 0.0, 1)], [judged("b", 0.0, 2)], num_resamples=999)
    assert not error.paired.excludes_zero


def test_prompts_of_one_side_alone_are_dropped_and_counted():
    second = judged("b", 1.0, 2)
    fewer = Evaluation("b", second.card, second.table[second.table["prompt_id"] != PROMPTS[0]])
    error, _ = compare([judged("a", 0.0, 1)], [fewer], num_resamples=999)
    assert (error.paired.num_prompts, error.paired.num_dropped) == (59, 1)


def test_an_answer_is_compared_with_the_one_to_the_same_prompt_noise_and_training_seed():
    """One seed's base is worse by 4: where only that seed lost its value nothing must be found."""
    first = [judged("a-1", 0.0, 1), judged("a-2", 4.0, 2)]
    second = [judged("b-1", 0.0, 3), judged("b-2", 4.0, 4)]
    table = second[1].table
    table.loc[table["prompt_id"].isin(PROMPTS[:30]), "error"] = np.nan
    table.loc[(table["prompt_id"] == PROMPTS[40]) & (table["noise_seed"] == 11), "error"] = np.nan
    error, _ = compare(first, second, num_resamples=999)
    assert error.paired.mean == pytest.approx(0, abs=0.1)
    assert (error.paired.num_prompts, error.paired.num_dropped) == (60, 0)


def test_arms_with_unlike_numbers_of_training_seeds_are_not_compared():
    with pytest.raises(ValueError, match="zip"):
        compare([judged("a", 0, 1)], [judged("b", 0, 2), judged("c", 0, 3)])


def test_other_cards_are_refused_all_at_once():
    with pytest.raises(CardError) as refused:
        compare([judged("a", 0, 1)], [judged("b", 0, 2, num_frames=32), judged("c", 0, 3, fps=8)])
    message = str(refused.value)
    assert "num_frames: a has 16, b has 32" in message and "fps: a has None, c has 8" in message
