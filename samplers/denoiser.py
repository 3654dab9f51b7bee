"""Wrap networks that predict v or x0 as ε-networks, the one contract of the loop."""

from __future__ import annotations

from collections.abc import Callable

import torch

from samplers.errors import choose
from samplers.execute import Pair, checked_pair
from samplers.schedule import NoiseSchedule


def _from_v(z, out, alpha, sigma_vp):
    return alpha * out + sigma_vp * z  # v = α·ε − σ·x0 (Salimans & Ho 2022, arXiv:2202.00512)


def _from_sample(z, out, alpha, sigma_vp):
    return (z - alpha * out) / sigma_vp


_CONVERSIONS = {"epsilon": None, "v_prediction": _from_v, "sample": _from_sample}


def as_epsilon(
    model: Callable[..., Pair], prediction_type: str, schedule: NoiseSchedule
) -> Callable[..., Pair]:
    """Return a model(z, t) → (ε_u, ε_c) from one that predicts ε, v or x0.

    Further arguments, such as embeddings, are handed on to the model, and so are calls of one row
    alone where the model has methods `uncond_row` and `cond_row`.

    prediction_type  diffusers' names: "epsilon", "v_prediction", "sample"

    α is read from the schedule at the (possibly fractional) timestep on the network's device, in
    float32 or better; nothing waits for the device.
    """
    convert = choose("prediction type", prediction_type, _CONVERSIONS)
    if convert is None:
        return model
    log_sigmas = [schedule.log_sigma(t) for t in range(schedule.num_timesteps)]
    tables: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def at(z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return z, α and σ_vp in float32 or better."""
        dtype = torch.promote_types(z.dtype, torch.float32)
        key = (z.device, dtype)
        if key not in tables:
            tables[key] = torch.tensor(log_sigmas, dtype=dtype, device=z.device)
        table = tables[key]
        # take, not table[low]: indexing by a tensor without dimensions reads its value back
        t = t.to(z.device)
        low = t.long().clamp(0, len(log_sigmas) - 2)
        sigma = torch.lerp(table.take(low), table.take(low + 1), (t - low).to(dtype)).exp()
        alpha = (1 + sigma * sigma).rsqrt()
        return z.to(dtype), alpha, sigma * alpha

    def wrapped(z: torch.Tensor, t: torch.Tensor, *context: object) -> Pair:
        z_wide, alpha, sigma_vp = at(z, t)
        outputs = checked_pair(model(z, t, *context), z)
        first, second = (convert(z_wide, out.to(z_wide.dtype), alpha, sigma_vp) for out in outputs)
        return first, second

    def alone(row: Callable) -> Callable[..., torch.Tensor]:
        def one(z: torch.Tensor, t: torch.Tensor, *context: object) -> torch.Tensor:
            z_wide, alpha, sigma_vp = at(z, t)
            return convert(z_wide, row(z, t, *context).to(z_wide.dtype), alpha, sigma_vp)

        return one

    for name in ("uncond_row", "cond_row"):
        if hasattr(model, name):
            setattr(wrapped, name, alone(getattr(model, name)))
    return wrapped
