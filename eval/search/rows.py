"""What a search may draw: development prompts and seeds from 100 on, never what is reported on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.models import ROOT
from eval.prompts import read_prompts

FIRST_SEED = 100  # reported runs use the seeds below
HELD_OUT = ("scenes100.txt", "scenes1000.txt", "scenes8000.txt", "coco100.txt")


@dataclass(frozen=True)
class Row:
    """One image to draw, with the guidance strength in CFG units."""

    prompt: str
    seed: int
    omega: float


def held_out_prompts() -> set[str]:
    """Return the prompts of all held-out files of this checkout."""
    files = (ROOT / "prompts" / name for name in HELD_OUT)
    return {prompt for file in files if file.is_file() for prompt in read_prompts(file)}


def check_development(path: Path) -> list[str]:
    """Read a prompt file; ValueError when it is a held-out one, or shares a prompt with one."""
    if path.name in HELD_OUT:
        raise ValueError(
            f"{path.name} is held out for reports; search on others, such as "
            "prompts/scenes_dev40.txt, or leave --prompts out on a stand-in"
        )
    prompts = read_prompts(path)
    shared = held_out_prompts() & set(prompts)
    if shared:
        raise ValueError(f"{path} shares {min(shared)!r} with a held-out prompt file; take it out")
    return prompts


class Rows:
    """An endless list of rows: strengths alternate, prompts rotate, no two rows share a seed.

    prompts  None renders fresh captions of the stand-ins' domain, split "val"
    omegas   strengths in CFG units
    """

    def __init__(self, prompts: list[str] | None, omegas: tuple[float, ...]):
        self.prompts, self.omegas = prompts, omegas
        self._fresh: list[str] = []
        self._avoid: set[str] = set() if prompts else held_out_prompts()
        self._next = 0

    def block(self, start: int, count: int) -> list[Row]:
        """Return rows start … start + count − 1."""
        return [
            Row(self._prompt(k), FIRST_SEED + k, self.omegas[k % len(self.omegas)])
            for k in range(start, start + count)
        ]

    def _prompt(self, k: int) -> str:
        if self.prompts:
            return self.prompts[k // len(self.omegas) % len(self.prompts)]
        from standins import scenes

        while len(self._fresh) <= k:
            text = scenes.sample("val", self._next, held_out=None)[2]
            self._next += 1
            if text not in self._avoid:
                self._fresh.append(text)
        return self._fresh[k]
