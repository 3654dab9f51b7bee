"""One kernel per step: a program's rows as dense vectors, applied by Triton or by torch.compile.

Each step is the same expression over (carry, probe, ε_u, ε_c, ring, noise) with other numbers, so
the numbers go to the device once per run as a table and one kernel serves every step of every plan:

    F_r = probe − a_r·ε_u − b_r·ε_c                        (the estimates of this evaluation)
    out = s·carry + Σ_r w_0r·F_r + Σ_{j≥1,r} w_jr·ring[i − j, r] + n·noise
"""

from __future__ import annotations

import logging
from functools import cache

import torch

from samplers.errors import choose
from samplers.execute import Draw, Executor, Pair, Plain
from samplers.program import Combination, Program, Stage

logger = logging.getLogger(__name__)


def executor(kernel: str, program: Program, like: torch.Tensor) -> Executor:
    """Return what combines tensors for a program, on the device and in the precision of `like`.

    kernel  "plain"    torch operators, one per term: the reference, and the fastest on a CPU
            "triton"   one hand-written kernel per step; needs a GPU and the package triton
            "compile"  one kernel per step by torch.compile
            "auto"     triton on a CUDA device where it works there, else plain

    They agree to the rounding of the state's precision. "auto" tries Triton once per process and
    device on a small tensor against plain; where it fails, one line is logged and plain runs.
    """
    known = {"auto": None, "plain": Plain, "triton": Triton, "compile": Compiled}
    chosen = choose("kernel", kernel, known)
    if chosen is None:
        usable = like.device.type == "cuda" and _triton_agrees(like.device, like.dtype)
        chosen = Triton if usable else Plain
    return chosen(program, like)


class _Dense:
    """The table and the ring; subclasses say how one row is applied."""

    def __init__(self, program: Program, like: torch.Tensor):
        self._stages = program.stages
        self._memory, self._width = program.memory, program.slots // program.memory
        rows = [
            self._numbers(i, stage, update)
            for i, stage in enumerate(program.stages)
            for update in (stage.carry, stage.probe or stage.carry)
        ]
        table = torch.tensor(rows, dtype=torch.float64).to(like)
        self._table = table.view(len(program.stages), 2, -1)
        # zeros: a weight of 0 meets slots that nothing was written to yet
        self._ring = torch.zeros((program.slots, *like.shape), dtype=like.dtype, device=like.device)

    def _numbers(self, i: int, stage: Stage, update: Combination) -> list[float]:
        """Return [s, n, a_0 …, b_0 …, w_00, w_01 …], estimates ordered by age."""
        kept = [*stage.keep, *[(0, 0.0, 0.0)] * (self._width - len(stage.keep))]
        weights = [0.0] * (self._memory * self._width)
        for slot, weight in update.terms:
            age = (i - slot // self._width) % self._memory
            weights[age * self._width + slot % self._width] = weight
        from_eps = [a for _, a, _ in kept] + [b for _, _, b in kept]
        return [update.state, update.noise, *from_eps, *weights]

    def advance(
        self, i: int, carry: torch.Tensor, probe: torch.Tensor, eps: Pair, draw: Draw
    ) -> torch.Tensor:
        noise = draw(carry) if self._stages[i].carry.noise else None
        return self._apply(i, 0, carry, (probe, *(e.to(probe.dtype) for e in eps)), noise)

    def look_ahead(self, i: int, carry: torch.Tensor, draw: Draw) -> torch.Tensor:
        noise = draw(carry) if self._stages[i].probe.noise else None
        return self._apply(i, 1, carry, None, noise)

    def _apply(
        self,
        i: int,
        which: int,
        carry: torch.Tensor,
        seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
        noise: torch.Tensor | None,
    ) -> torch.Tensor:
        """Apply row (i, which); `seen` is the (probe, ε_u, ε_c) of a new evaluation, if any."""
        raise NotImplementedError


class Compiled(_Dense):
    """One kernel that torch.compile makes of the expression."""

    def __init__(self, program: Program, like: torch.Tensor):
        super().__init__(program, like)
        self._slots = [slot.clone() for slot in self._ring]  # aliased inputs defeat the compiler

    def _apply(self, i, which, carry, seen, noise):
        ages = [
            self._slots[(i - j) % self._memory * self._width + r]
            for j in range(self._memory)
            for r in range(self._width)
        ]
        return _compiled()(self._table[i, which], carry, seen, ages, self._width, noise)


@cache
def _compiled():
    return torch.compile(_expression)


def _expression(numbers, carry, seen, ages, width, noise):
    if seen is not None:
        probe, uncond, cond = seen
        for r in range(width):
            a, b = numbers[2 + r], numbers[2 + width + r]
            ages[r].copy_(probe - a * uncond - b * cond)
    out = numbers[0] * carry
    for q, estimate in enumerate(ages):
        out = out + numbers[2 + 2 * width + q] * estimate
    return out if noise is None else out + numbers[1] * noise


class Triton(_Dense):
    """One launch of `samplers.triton_kernel.apply` per step."""

    def _apply(self, i, which, carry, seen, noise):
        from samplers.triton_kernel import launch

        numbers = self._table[i, which]
        return launch(numbers, carry, seen, self._ring, i, self._memory, self._width, noise)


@cache
def _triton_agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether the kernel works on this device, by a run of two steps beside plain torch."""
    stages = tuple(
        Stage(
            1.0, 1.0, 0.5, 0.5, 1.0, True, True, ((i, -1.0, 1.5),),
            Combination(0.9, ((i, 0.2),) if i == 0 else ((1, 0.3), (0, -0.1)), 0.0), None, 1.0,
        )
        for i in range(2)
    )  # fmt: skip
    program = Program(stages, 2, 2, 1.0)
    draw = torch.Generator().manual_seed(0)
    x, *eps = torch.randn(3, 1, 4, 9, 7, generator=draw).to(device, dtype)
    try:
        out = []
        for kind in (Plain, Triton):
            run, state = kind(program, x), x
            for i in range(2):
                state = run.advance(i, state, state, tuple(eps), lambda like: like)
            out.append(state)
        torch.testing.assert_close(*out, rtol=1e-5, atol=1e-5)
        return True
    except Exception as error:  # whatever breaks a compiler: its own errors are of many kinds
        first = str(error).strip().partition("\n")[0]
        logger.warning("the Triton kernel is not used: %s: %s", type(error).__name__, first)
        return False
