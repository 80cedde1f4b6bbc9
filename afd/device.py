"""Compute device of this process; it changes no result's identity."""

import gc
import os

import torch


def compute_device() -> torch.device:
    """Return AFD_DEVICE if it is set, else the first visible GPU, else the CPU."""
    if chosen := os.environ.get("AFD_DEVICE"):
        return torch.device(chosen)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def give_back() -> None:
    """Free unused GPU memory for other programs."""
    if torch.cuda.is_available():
        gc.collect()  # a network with hooks is a cycle
        torch.cuda.empty_cache()
