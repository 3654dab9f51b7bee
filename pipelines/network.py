"""Calls of the UNet: both guidance rows at once, or one alone; eager or compiled."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from samplers.loop import Pair

COMPILERS = {"cpu": ("CXX", ("g++",)), "cuda": ("CC", ("gcc", "clang"))}  # variable, usual names
Added = dict[str, torch.Tensor]  # SDXL's pooled embeddings and time ids


class UNetCalls:
    """What a loaded model needs to ask its UNet.

    evaluations  calls so far, however many rows each had
    unet_rows    rows so far: two per image and evaluation, one where one alone was asked for
    """

    unet: torch.nn.Module
    device: torch.device
    dtype: torch.dtype
    evaluations: int
    unet_rows: int
    predict_noise: Callable[..., Pair]
    _epsilon: Callable[..., Pair]
    _graphs = _compiled = False

    def compile_unet(self) -> None:
        """Compile the UNet at its next call: the same images to float tolerance, in less time.

        On CUDA with CUDA graphs. The first call at a shape takes seconds to minutes; a second shape
        makes torch compile once more, for all. Asked for again, it keeps what is compiled.
        Raises ValueError where the compiler that torch needs is not here.
        """
        if self._compiled:
            return
        _require_compiler(self.device.type)
        # `coupled_edit` puts hooks into the network and takes them out: compiled code must see that
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        self._graphs = self.device.type == "cuda"
        self.unet.compile(mode="reduce-overhead" if self._graphs else None)
        self._compiled = True

    def given(self, uc: torch.Tensor | None, c: torch.Tensor | None, **added: Added) -> Conditioned:
        """Return this network with its embeddings, as the loop calls it."""
        return Conditioned(partial(self.predict_noise, **added), uc, c)

    def _predict(
        self,
        zt: torch.Tensor,
        t: torch.Tensor,
        uc: torch.Tensor | None,
        c: torch.Tensor | None,
        added: Added | None = None,
    ) -> Pair:
        """Evaluate the network once on the rows that are there; v-predictions are converted."""
        rows = [e.expand(zt.shape[0], -1, -1) for e in (uc, c) if e is not None]
        if not rows:
            raise ValueError("predict_noise needs uc, c or both; both are None")
        self.evaluations += 1
        self.unet_rows += len(rows) * zt.shape[0]
        return self._epsilon(zt, t, rows, added)

    def _network(
        self, z: torch.Tensor, t: torch.Tensor, rows: list[torch.Tensor], added: Added | None
    ) -> Pair:
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()
        # without gradients, views and versions need no bookkeeping: 6 % of a one-image call on CPU
        with torch.inference_mode(not torch.is_grad_enabled()):
            out = self.unet(
                torch.cat([z.to(self.dtype)] * len(rows)),
                t,
                encoder_hidden_states=torch.cat(rows),
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        # a graph overwrites its output at the next call, and callers may write into theirs
        parts = out.clone().chunk(len(rows))
        return parts[0], parts[-1]


def _require_compiler(device: str) -> None:
    """Raise ValueError unless torch.compile finds its compiler: Triton needs one on CUDA, too."""
    if device not in COMPILERS:
        return
    variable, usual = COMPILERS[device]
    compilers = (os.environ[variable],) if os.environ.get(variable) else usual
    if not any(map(shutil.which, compilers)):
        raise ValueError(
            f"compiling for {device} needs the compiler {' or '.join(map(repr, compilers))}, which "
            f"is not here; install one, set {variable}, or run without compiling"
        )


@dataclass(frozen=True)
class Conditioned:
    """A network with its embeddings, as `samplers.loop` calls it: both rows, or one alone.

    predict  (z, t, uc, c) → (ε_uncond, ε_cond), where None leaves a row out
    uc, c    embeddings; where one is None the other stands for both
    """

    predict: Callable[..., Pair]
    uc: torch.Tensor | None
    c: torch.Tensor | None

    def __call__(self, z: torch.Tensor, t: torch.Tensor) -> Pair:
        return self.predict(z, t, self.uc, self.c)

    def uncond_row(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.predict(z, t, self.uc, self.c if self.uc is None else None)[0]

    def cond_row(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.predict(z, t, self.uc if self.c is None else None, self.c)[1]
