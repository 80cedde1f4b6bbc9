"""Devices that a stage may run on: dense bfloat16 peak and memory, as their makers publish them."""

from dataclasses import dataclass
from typing import Literal, get_args

Device = Literal["cpu", "rtx4090", "l40s", "a100-40", "a100", "h100", "h200", "b200"]
DEVICES: tuple[Device, ...] = get_args(Device)


@dataclass(frozen=True, slots=True)
class Machine:
    """One device; `utilisation` is the share of the peak that real work reaches."""

    device: Device
    memory_gb: float  # 1e9 bytes
    peak_tflops: float
    utilisation: float
    usd_per_hour: float | None = None

    def hours(self, flops: float) -> float:
        """Return the hours that `flops` take."""
        return flops / (self.peak_tflops * 1e12 * self.utilisation) / 3600


def machine(
    device: Device, memory_gb: float | None = None, usd_per_hour: float | None = None
) -> Machine:
    """Return a device at a usual utilisation: 40 % of a GPU's peak, one core of a CPU.

    The pocket student reaches 0.02 of the CPU's 0.1 TFLOP/s (docs/benchmarks.md).
    """
    memory, peak, share = {
        "cpu": (8.0, 0.1, 0.2),
        "rtx4090": (24.0, 165.0, 0.4),
        "l40s": (48.0, 362.0, 0.4),
        "a100-40": (40.0, 312.0, 0.4),
        "a100": (80.0, 312.0, 0.4),
        "h100": (80.0, 989.0, 0.4),
        "h200": (141.0, 989.0, 0.4),
        "b200": (180.0, 2250.0, 0.4),
    }[device]
    return Machine(device, memory if memory_gb is None else memory_gb, peak, share, usd_per_hour)
