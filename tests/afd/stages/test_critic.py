"""The dmd arm's critic: killed and asked again, it ends as if nothing had happened."""

from pathlib import Path

from afd.config import Params
from afd.params import load_params
from afd.stages import requests
from afd.stages.execute import execute
from afd.store import Store
from tests.afd.stages.conftest import Forge, hashes, with_inputs

TINY = Path(__file__).parents[3] / "params" / "tiny.yaml"
MATCHING = (
    "update.objective=distribution_matching",
    "update.critic={warmup_steps: 3, num_steps: 3, batch_size: 8, learning_rate: 2.0e-3}",
    "teacher.white_box={num_clips: 8, num_steps: 1, batch_size: 4, learning_rate: 2.0e-3, "
    "weight_decay: 0.0, warmup_steps: 0, ema_decay: 0.0, times: uniform}",
)


def test_a_killed_critic_goes_on_bit_for_bit(forge: Forge, tmp_path: Path) -> None:
    params, made = load_params(Params, TINY, (), MATCHING), Store(tmp_path / "made")
    prompt_set = execute(requests.prompts(params), made).ref
    student = execute(requests.warmstart(params, prompt_set), made).ref
    rollouts = execute(requests.rollout(params, prompt_set, student, 0), made).ref
    first = requests.critic(params, rollouts, student, 0)
    asked = requests.critic(params, rollouts, execute(first, made).ref, 1)
    whole = execute(asked, made)
    store = with_inputs(made, asked, tmp_path / "again")
    assert forge.start(asked, store, AFD_FAILPOINT="critic.step:2").wait() == -9
    assert not store.have(asked.output)
    again = forge.start(asked, store)
    assert again.wait() == 0, again.log
    assert "resumed from step" in again.log
    assert hashes(store.load(asked.output)) == hashes(whole)
