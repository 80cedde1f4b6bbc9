"""FSDP2 over two real processes against one: gradients of a LoRA, and a rollout."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.afd.students.sharded import computed

ROOT = Path(__file__).parents[3]


def ranks(world: int, file: Path) -> dict[str, torch.Tensor]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.afd.students.sharded"]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(world), port, str(file)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        told = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(told)[-4000:]
    return load_file(file)


def test_two_ranks_leave_what_one_process_leaves(tmp_path: Path) -> None:
    one, two = computed(0, 1), ranks(2, tmp_path / "two")
    assert two.pop("held") < 0.6 * one.pop("held")  # of what is frozen; sizes here are not even
    assert one.keys() == two.keys() and len(one) == 2 * 2 * 10 + 1
    for name, theirs in one.items():
        scale = max(1e-3, theirs.abs().max().item())
        torch.testing.assert_close(two[name], theirs, atol=1e-5 * scale, rtol=0, msg=name)
