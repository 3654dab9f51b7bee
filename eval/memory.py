"""Draw as many images at once as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from eval.drawers import Drawer


class Portions:
    """Draw batches whole, or in portions of `at_once` images once memory was short.

    at_once  images at once; halves when they do not fit, and stays there
    say      told one line each time

    An image follows from its prompt and seed up to the last bits of arithmetic, which depend on
    how many are drawn together: the sizes that were used are recorded beside the images.
    """

    def __init__(self, at_once: int, say: Callable[[str], None]):
        self.at_once, self._say = at_once, say

    def draw(
        self, drawer: Drawer, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final latents and images of one batch, on the CPU.

        Raises ValueError when not even one image fits.
        """
        while True:
            try:
                return self._in_portions(drawer, prompts, seeds)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Only here, where the error has gone with the tensors that its frames held.
            self._halve(min(self.at_once, len(prompts)))

    def _in_portions(
        self, drawer: Drawer, prompts: Sequence[str], seeds: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        latents, images = [], []
        for start in range(0, len(prompts), self.at_once):
            part = slice(start, start + self.at_once)
            z, x = drawer.draw(prompts[part], seeds[part])
            latents.append(z.cpu())
            images.append(x.cpu())
        return torch.cat(latents), torch.cat(images)

    def _halve(self, tried: int) -> None:
        if tried == 1:
            raise ValueError(
                "not even one image at once fits into memory; free some, or give another --device, "
                "or --dtype float16"
            )
        self.at_once = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
        self._say(
            f"note: {tried} images at once do not fit into memory; going on with {self.at_once}"
        )


# In the words of CUDA, its driver, cuBLAS, cuDNN (which tells a workspace that does not fit as an
# engine that cannot be found), MPS and the CPU: not all of them come as torch.OutOfMemoryError.
SHORT_OF_MEMORY = (
    "out of memory",
    "alloc_failed",
    "unable to find an engine",
    "cudnn_status_not_supported",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, is a lack of memory on CUDA, MPS or the CPU."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        text = str(error).lower() if isinstance(error, RuntimeError) else ""
        if any(words in text for words in SHORT_OF_MEMORY):
            return True
        error = error.__cause__
    return False
