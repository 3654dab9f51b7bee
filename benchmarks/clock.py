"""Read a clock that says how long a device worked."""

from __future__ import annotations

import time

import torch


def clock(device: torch.device) -> float:
    """Return seconds: this process's own on a CPU; elsewhere wall time, after what was queued.

    Other processes do not lengthen a processor's time. What an accelerator does is none of it.
    """
    if device.type == "cpu":
        return time.process_time()
    if device.type == "mps":  # of which there is one
        torch.mps.synchronize()
    else:
        getattr(torch, device.type).synchronize(device)  # torch.cuda, torch.xpu
    return time.perf_counter()


def machine(device: torch.device, processor: str) -> str:
    """Name what was measured on: the GPU where torch knows its name, else the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor if device.type == "cpu" else f"{processor}, {device.type}"
