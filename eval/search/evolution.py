"""Evolution on few images, then successive halving on fresh ones.

Half of the budget goes to an evolution of 15 parents (USF, Liu et al. 2023, arXiv:2312.07243) on
one block of images. Picking the best of many on one block flatters it, so the other half goes to
rounds of halving, each on images that no round before has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eval.search.journal import Journal, key_of
from eval.search.objectives import Measured, Objective, Planner
from eval.search.space import child
from samplers import NoiseSchedule
from samplers.errors import whole
from samplers.presets import Preset

PARENTS, CHILDREN = 15, 6
KEPT = (8, 4, 2)  # candidates in the rounds of halving
LEAST_HALVING = sum(kept + 2 for kept in KEPT)  # with the recipe and the best start beside them


@dataclass(frozen=True)
class Settings:
    """How long to search, and what CLIP (× 100) is worth.

    budget       images in all, at most
    screen       images per candidate in the evolution
    clip_floor   least CLIP score, where the recipe's own on the same images is not higher
    clip_weight  loss per CLIP point below that
    """

    budget: int
    seed: int = 0
    screen: int = 64
    clip_weight: float = 1.0
    clip_floor: float = 0.0


@dataclass(frozen=True)
class Standing:
    """A candidate against the recipe on the same images: value minus value, below 0 is better."""

    start: int
    count: int
    recipe: Measured
    found: Measured
    gain: float


@dataclass(frozen=True)
class Outcome:
    """The winner, and how it and the best of the first candidates stood on every block.

    The latter, which no evolution made, is kept to the end: it shows what the evolution buys.
    """

    winner: Preset
    standings: tuple[Standing, ...]
    unevolved: tuple[Standing, ...]
    candidates: int


class Evolution:
    """One search; `run` does it, or goes on where a killed one stopped.

    recipe   how the hand-made recipe samples; what candidates are compared with
    planner  how a preset samples
    spent    called with the number of images after every measurement
    """

    def __init__(
        self,
        objective: Objective,
        journal: Journal,
        settings: Settings,
        recipe: Planner,
        planner: Callable[[Preset], Planner],
        spent: Callable[[int], None] = lambda images: None,
    ):
        self.objective, self.journal, self.settings = objective, journal, settings
        self.recipe, self.planner, self._tell = recipe, planner, spent
        self._spent = 0
        self._seen: dict[str, Measured] = {}
        self._stood: dict[Preset, list[Standing]] = {}

    def run(self, first: list[Preset], schedule: NoiseSchedule) -> Outcome:
        """Search from these candidates on; raise ValueError when the budget is too small."""
        screen = whole("screen", self.settings.screen, 2, 100_000)
        least = screen * (PARENTS + 2 + LEAST_HALVING)  # one more start than parents, the recipe
        if self.settings.budget < least:
            raise ValueError(
                f"budget {self.settings.budget} is too small for {screen} images per candidate; "
                f"give {least} or more"
            )
        ranked = self._evolve(first, schedule)
        per_round = (self.settings.budget - self._spent) // len(KEPT)
        sums: dict[Preset, float] = {}
        start, finalists = screen, ranked
        anchor = next(one for one in ranked if one in first)
        for kept in KEPT:
            finalists = finalists[:kept] + [anchor] * (anchor not in finalists[:kept])
            enough = per_round >= screen * (KEPT[0] + 2)
            count = per_round // (len(finalists) + 1) if enough else screen
            gains = [self._stand(one, start, count).gain for one in finalists]
            for one, gain in zip(finalists, gains, strict=True):
                sums[one] = sums.get(one, 0.0) + count * gain  # fresh images only
            finalists = sorted(finalists, key=sums.__getitem__)
            start += count
        winner = finalists[0]
        stood = (tuple(self._stood[one]) for one in (winner, anchor))
        return Outcome(winner, *stood, len(ranked))

    def _evolve(self, first: list[Preset], schedule: NoiseSchedule) -> list[Preset]:
        """Return all candidates tried, best first on the screening block."""
        rng = np.random.default_rng(self.settings.seed)
        scores: dict[Preset, float] = {}
        screen, budget = self.settings.screen, self.settings.budget
        half = min(budget // 2, budget - LEAST_HALVING * screen)
        wave = list(first)
        while wave:
            for one in wave:
                if self._spent + screen > half:
                    return sorted(scores, key=scores.__getitem__)
                scores[one] = self._stand(one, 0, screen).gain
            parents = sorted(scores, key=scores.__getitem__)[:PARENTS]
            wave = []
            while len(wave) < CHILDREN:
                new = child(parents, rng, schedule)
                if new not in scores and new not in wave:
                    wave.append(new)
        return sorted(scores, key=scores.__getitem__)

    def _stand(self, one: Preset, start: int, count: int) -> Standing:
        recipe = self._measure("recipe", self.recipe, start, count)
        found = self._measure(one.to_json(), self.planner(one), start, count)
        gain = found.loss - recipe.loss
        if found.clip is not None and recipe.clip is not None:
            floor = max(recipe.clip, self.settings.clip_floor)
            gain += self.settings.clip_weight * max(0.0, floor - found.clip)
        standing = Standing(start, count, recipe, found, gain)
        self._stood.setdefault(one, []).append(standing)
        return standing

    def _measure(self, text: str, planner: Planner, start: int, count: int) -> Measured:
        key = key_of(text, start, count)
        if key in self._seen:
            return self._seen[key]
        found = self.journal.find(key)
        if found is None:
            found = self.objective.measure(planner, start, count)
            self.journal.add(key, found)
        self._seen[key] = found
        self._spent += count
        self._tell(count)
        return found
