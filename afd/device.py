"""Where networks compute: circumstance, chosen once a process."""

import gc
import os

import torch


def compute_device() -> torch.device:
    """AFD_DEVICE if it is set, else the first GPU this process sees, else the CPU."""
    if chosen := os.environ.get("AFD_DEVICE"):
        return torch.device(chosen)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def give_back() -> None:
    """Let programs beside this process have the GPU memory that it holds and does not use."""
    if torch.cuda.is_available():
        gc.collect()  # a network with hooks is a cycle
        torch.cuda.empty_cache()
