"""Programs, their executors, and what a run never does: wait, copy to and fro, grow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from samplers import available, compile_plan, generators, sample, trajectory
from samplers.schedule import alpha_of

NAMES = ["exp2m_cfg++", "dpm3m_sde", "dpm2s", "dpm++_2m_cfg++", "ddim_cfg++", "euler_a"]
READS = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero"}


def network(z, t):
    return torch.tanh(z), torch.sin(z)


def steady(z, t):
    """A network that does not amplify what float32 rounds: its output is given by t alone."""
    fixed = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
    return fixed * (1 + t / 999).to(z.dtype), fixed.sin() - (t / 999).to(z.dtype)


def noise(dtype=torch.float32, batch=2):
    return torch.randn(batch, 4, 6, 5, generator=torch.Generator().manual_seed(0)).to(dtype)


def literal(model, z_T, plan, sources=None):
    """The plan as its docstring states it, in float64 and VE units, D and Δ of all evaluations."""
    x = probe = z_T.double() * plan.start
    seen, states = [], []

    def apply(update, x):
        out = x * update.state
        for (uncond, delta), u, g in zip(reversed(seen), update.uncond, update.delta, strict=False):
            out = out + u * uncond + g * delta
        if update.noise:
            draws = [torch.randn(z_T.shape[1:], generator=g) for g in sources]
            out = out + update.noise * torch.stack(draws).double()
        return out

    for row in plan:
        eps_u, eps_c = model(probe * alpha_of(row.sigma), torch.tensor(row.timestep))
        uncond, cond = probe - row.sigma * eps_u, probe - row.sigma * eps_c
        seen.append((uncond, cond - uncond))
        x = apply(row.carry, x)
        states.append((x * alpha_of(row.carry.sigma), uncond + row.weight * (cond - uncond)))
        probe = x if row.probe is None else apply(row.probe, x)
    return states


# --- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [recipe.name for recipe in available()])
def test_the_loop_does_what_the_plan_says(name, schedule):
    """Every registered sampler against the table read literally, to 1e-10 in double."""
    plan, z = compile_plan(name, schedule, 7), noise(torch.float64)
    expected = literal(network, z, plan, generators([1, 2]))
    steps = list(trajectory(network, z, plan, generators([1, 2])))
    for step, (latent, denoised) in zip(steps, expected, strict=True):
        torch.testing.assert_close(step.latent, latent, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(step.denoised, denoised, rtol=1e-10, atol=1e-10)


def test_guided_rates_leave_one_estimate_and_kicks_two(schedule):
    def per_evaluation(name, **options):
        program = compile_plan(name, schedule, 8, **options).program
        return {len(stage.keep) for stage in program.stages}

    assert per_evaluation("exp2m_cfg++") == per_evaluation("dpm3m_sde") == {1}
    assert per_evaluation("dpm2s") == {1}
    assert max(per_evaluation("dpm++_2m_cfg++")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exp2m_cfg++", "dpm3m_sde", "dpm2s", "dpm++_2m_cfg++"])
def test_the_compiled_kernel_equals_plain_torch(name, schedule):
    plan, z = compile_plan(name, schedule, 6), noise()
    plain, fused = (
        sample(steady, z, plan, generators([1, 2]), kernel) for kernel in ("plain", "compile")
    )
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)


INTERPRETED = """
import sys
import torch
from samplers import NoiseSchedule, compile_plan, generators, sample, trajectory
from samplers.fused import _triton_agrees
from test_fused import noise, steady

assert _triton_agrees(torch.device("cpu"), torch.float32)
schedule = NoiseSchedule(torch.linspace(0.9991, 0.0047, 1000, dtype=torch.float64))
for name in ("exp2m_cfg++", "dpm3m_sde", "dpm2s", "dpm++_2m_cfg++"):
    plan = compile_plan(name, schedule, 5)
    for dtype in (torch.float32, torch.float64, torch.float16):
        out = [
            sample(steady, noise(dtype), plan, generators([1, 2]), kernel)
            for kernel in ("plain", "triton")
        ]
        close = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(*out, rtol=close, atol=close)
print("equal")
"""


def test_the_triton_kernel_equals_plain_torch():
    """In Triton's interpreter, which needs no GPU: to 1e-5, in double to 1e-12."""
    pytest.importorskip("triton")
    paths = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[1])]
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


def test_unknown_kernels_are_refused_by_name(schedule):
    with pytest.raises(ValueError, match="kernel 'tritn'; did you mean 'triton'"):
        sample(network, noise(), compile_plan("ddim", schedule, 2), kernel="tritn")


# --- what it never does --------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """Count operators by name, between two calls of the network."""

    def __init__(self):
        super().__init__()
        self.steps: list[Counter] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.steps:
            self.steps[-1][func.overloadpacket._qualified_op_name.replace("::", ".")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_nothing_back_and_copies_nothing(name, schedule):
    """Between network calls: no value read, no copy, one new tensor per state, few operators."""
    eps, plan = network(noise(), 0), compile_plan(name, schedule, 8)
    with Operators() as seen:

        def model(z, t):
            seen.steps.append(Counter())
            return eps

        sample(model, noise(), plan, generators([1, 2]))
    middle = seen.steps[4]
    names = {f"aten::{key.split('.')[-1]}" for key in middle}
    assert not names & (READS | {"aten::copy_", "aten::clone", "aten::_to_copy", "aten::cat"})
    states = 2 if name == "dpm2s" else 1
    made = sum(n for key, n in middle.items() if key.split(".")[-1] in ("mul", "empty", "lerp"))
    assert made <= states + plan.stochastic, middle
    assert sum(middle.values()) <= 9 + 4 * plan.stochastic, middle


def test_history_does_not_grow(schedule):
    """However many evaluations, the ring has as many slots as the plan reaches back."""
    for nfe in (5, 50):
        assert compile_plan("exp2m_cfg++", schedule, nfe).program.slots == 2
        assert compile_plan("dpm3m_sde", schedule, nfe).program.slots == 3


def test_a_network_that_writes_into_its_input_is_refused(schedule):
    def model(z, t):
        return z.mul_(2), z

    with pytest.raises(ValueError, match=r"changed its input in place; .* z.clone\(\)"):
        sample(model, noise(), compile_plan("ddim", schedule, 2))


def test_the_noise_is_one_stream_per_image(schedule):
    """Image k of a batch is the image of its seed alone, exactly, and noise is randn's."""
    from samplers import standard_normal

    drawn = standard_normal((2, 4, 6, 5), generators([7, 8]))
    alone = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(8))
    assert torch.equal(drawn[1], alone)


# --- on a GPU ------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kernel", ["plain", "auto"])
@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_gpu(name, kernel, schedule):
    """CUDA's own detector raises at the first synchronisation after the first evaluation."""
    plan = compile_plan(name, schedule, 8)
    sample(network, noise().cuda(), plan, generators([1, 2]), kernel)  # compiles kernels
    try:
        for step in trajectory(network, noise().cuda(), plan, generators([1, 2]), kernel):
            torch.cuda.set_sync_debug_mode("error" if step.index < 7 else "default")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("kernel", ["triton", "compile"])
@pytest.mark.parametrize("name", NAMES)
def test_fused_kernels_on_the_gpu_equal_plain_torch(name, kernel, schedule):
    plan = compile_plan(name, schedule, 8)
    for dtype in (torch.float32, torch.float16):
        plain, fused = (
            sample(steady, noise(dtype).cuda(), plan, generators([1, 2]), k)
            for k in ("plain", kernel)
        )
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
