"""A closed-form bed: class-conditional Gaussian mixtures with exact denoisers and exact scores.

    python -m benchmarks.mixture
    python -m benchmarks.mixture --arms "dpm2m,exp2m_cfg++[eta=1,order=1]" --nfe 10 --seeds 3

Stands in for a text-to-image model where nothing may be blamed on a network: D_u and D_c are exact
posterior means, p(c | x0) is exact, and the true distribution's features come from unlimited
samples. A prompt is a class. With `imperfect` the two denoisers are those of a blurred, confused
model, as trained networks are, while the scores are those of the truth: guidance then has an
optimum, as it has on networks. The table shows, per arm, the Fréchet distance at equal alignment
(mean log p(class | x0), nats) along the front over ω, geometric means over the problems; a dash is
out of reach in one of them. A mixture is no image: a rule that wins here is a candidate, no more.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from eval.arms import Arm, parse_arms
from eval.commands import Parser, natural, one_line_errors, read_by
from eval.metrics import Statistics, frechet
from eval.prompts import parse_seeds
from eval.tables import number
from samplers import NoiseSchedule, Plan, available, compile_plan, generators, trajectory
from samplers.loop import Model, Step
from samplers.schedule import alpha_of

T = 1000
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2
SCHEDULE = NoiseSchedule(torch.cumprod(1 - BETAS, 0))


@dataclass(frozen=True)
class Law:
    """Gaussians, diagonal covariances: weights (C, K) of C classes, means and variances (K, d)."""

    weights: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor

    def _responsibilities(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return log p(x | component) at noise level σ, (n, K)."""
        precision = 1 / (self.variances + sigma**2)
        square = (x * x) @ precision.T - 2 * x @ (precision * self.means).T
        constant = (precision * self.means**2 - precision.log()).sum(1)
        return -0.5 * (square + constant)

    def denoised(self, x: torch.Tensor, sigma: float, classes: torch.Tensor) -> torch.Tensor:
        """Return E[x0 | x0 + σ·z = x, class] for states (n, d)."""
        logits = self._responsibilities(x, sigma) + self.weights[classes].log()
        share = logits.softmax(1)
        shrink = self.variances / (self.variances + sigma**2)
        return x * (share @ shrink) + share @ ((1 - shrink) * self.means)

    def draw(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        component = torch.multinomial(self.weights[classes], 1, generator=generator)[:, 0]
        noise = torch.randn(len(classes), self.means.shape[1], generator=generator)
        return self.means[component] + noise * self.variances[component].sqrt()

    def log_class(self, x: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return log p(class | x) for clean x under equally likely classes, (n,)."""
        joint = self._responsibilities(x, 0.0)[:, None, :] + self.weights.log()
        return joint.logsumexp(2).log_softmax(1).gather(1, classes[:, None])[:, 0]


@dataclass(frozen=True)
class Bed:
    """A problem of C classes in d dimensions with power-law scales, drawn from `seed`.

    imperfect  0 is exact; 1 confuses 15 % of each class with the others and inflates the
               conditional's variances by half, the unconditional's to the double
    """

    seed: int = 0
    classes: int = 10
    per_class: int = 6
    dimensions: int = 48
    imperfect: float = 1.0

    @cached_property
    def truth(self) -> Law:
        g = torch.Generator().manual_seed(self.seed)
        count, d = self.classes * self.per_class, self.dimensions
        scale = torch.arange(1, d + 1) ** -0.6  # coarse and fine structure, as images have
        centres = torch.randn(self.classes, d, generator=g).repeat_interleave(self.per_class, 0)
        spread = torch.randn(count, d, generator=g)
        means = (0.7 * centres + 0.8 * spread) * scale
        width = 0.1 + 0.3 * torch.rand(count, 1, generator=g)
        variances = (width * scale * (0.5 + torch.rand(count, d, generator=g))) ** 2
        own = torch.eye(self.classes).repeat_interleave(self.per_class, 1)
        mix = torch.rand(self.classes, count, generator=g) + 0.2
        weights = own * mix + 0.02 * mix  # captions do not decide everything
        weights = weights / weights.sum(1, keepdim=True)
        gain = 1 / (weights.mean(0) @ (means**2 + variances)).mean().sqrt()  # unit variance
        return Law(weights, means * gain, variances * gain**2)

    @cached_property
    def conditional(self) -> Law:
        law, share = self.truth, 0.15 * self.imperfect
        weights = (1 - share) * law.weights + share * law.weights.mean(0)
        return Law(weights, law.means, law.variances * (1 + 0.5 * self.imperfect))

    @cached_property
    def unconditional(self) -> Law:
        """Its one row of weights is every class's."""
        law = self.truth
        weights = law.weights.mean(0, keepdim=True)
        return Law(weights, law.means, law.variances * (1 + self.imperfect))

    def model(self, classes: torch.Tensor, plan: Plan) -> Model:
        """Return the ε-network of both laws for one run of a plan."""
        levels = iter(row.sigma for row in plan)
        none = torch.zeros_like(classes)

        def network(z: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            sigma = next(levels)
            x = z.flatten(1) / alpha_of(sigma)
            pair = (
                self.unconditional.denoised(x, sigma, none),
                self.conditional.denoised(x, sigma, classes),
            )
            return tuple(((x - d) / sigma)[..., None, None] for d in pair)

        return network

    @cached_property
    def _reference(self) -> Statistics:
        g = torch.Generator().manual_seed(self.seed + 1)
        classes = torch.arange(200_000) % self.classes
        return self._features(self.truth.draw(classes, g))

    def _features(self, x: torch.Tensor) -> Statistics:
        """Moments of x and of saturating projections, which also see shapes beyond two moments."""
        g = torch.Generator().manual_seed(self.seed + 2)
        mix = torch.randn(self.dimensions, self.dimensions, generator=g) / self.dimensions**0.5
        return Statistics.of(torch.cat([x, torch.tanh(3 * x @ mix)], 1).double().numpy())

    def steps(self, plan: Plan, images: int, seed: int = 0) -> Iterator[Step]:
        """Sample classes in turn; the same seed starts every plan from the same noise."""
        g = torch.Generator().manual_seed(10_000 + seed)
        z = torch.randn(images, self.dimensions, 1, 1, generator=g)
        sources = generators(range(seed, seed + images)) if plan.stochastic else None
        return trajectory(self.model(self.assigned(images), plan), z, plan, sources)

    def assigned(self, images: int) -> torch.Tensor:
        """The class of each image, (n,)."""
        return torch.arange(images) % self.classes

    def run(self, plan: Plan, images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return final states (n, d) and classes (n,)."""
        (last,) = deque(self.steps(plan, images, seed), maxlen=1)
        return last.latent.flatten(1), self.assigned(images)

    def score(self, x: torch.Tensor, classes: torch.Tensor) -> tuple[float, float]:
        """Return (Fréchet distance, mean log p(class | x)) of samples against the truth."""
        fd = frechet(self._features(x), self._reference)
        return float(fd), float(self.truth.log_class(x, classes).mean())


ARMS = (
    "ddim,ddim_cfg++,dpm2m,dpm2m_cfg++,dpm2s,dpm2s_cfg++,dpm3m_sde,dpm3m_sde_cfg++,exp2m_cfg++,"
    "exp2m_cfg++[shape=constant],exp2m_cfg++[shape=constant,eta=0],exp2m_cfg++[eta=0,shape=bell],"
    "exp2m_cfg++[shape=bell],exp2m_cfg++[shape=constant,history=0],"
    "exp2m_cfg++[shape=constant,history=0.25],exp2m_cfg++[shape=constant,history=1]"
)
OMEGAS = (0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
LEVELS = (-1.0, -0.7, -0.5, -0.4, -0.3, -0.2)  # nats


def front(bed: Bed, arm: Arm, nfe: int, images: int) -> list[tuple[float, float]]:
    """Return (alignment, Fréchet distance) of an arm over OMEGAS."""
    points = []
    for omega in OMEGAS:
        plan = compile_plan(arm.sampler, SCHEDULE, nfe, omega=omega, **dict(arm.options))
        distance, alignment = bed.score(*bed.run(plan, images))
        points.append((alignment, distance))
    return points


def at_levels(points: list[tuple[float, float]]) -> list[float | None]:
    """Interpolate ln(distance) at LEVELS, along the front up to its best alignment."""
    best = max(range(len(points)), key=lambda k: points[k][0])
    alignment, distance = zip(*points[: best + 1], strict=True)
    return [
        float(np.exp(np.interp(level, alignment, np.log(distance))))
        if alignment[0] <= level <= alignment[-1]
        else None
        for level in LEVELS
    ]


def mean(distances: Sequence[float | None]) -> float | None:
    """Return the geometric mean over problems; None where one of them is out of reach."""
    if any(distance is None for distance in distances):
        return None
    return float(np.exp(np.mean(np.log(distances))))


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default=ARMS, help="as `python -m eval run` takes them")
    parser.add_argument("--nfe", type=natural, default=20)
    parser.add_argument(
        "--images", type=natural, default=3000, help="per ω, the same noise for all"
    )
    parser.add_argument(
        "--seeds", type=read_by(parse_seeds), default="0-9", help="of the problems (default 0-9)"
    )
    parser.add_argument("--imperfect", type=float, default=1.0, help="0: exact denoisers")
    args = parser.parse_args()
    beds = [Bed(seed=seed, imperfect=args.imperfect) for seed in args.seeds]
    known = {recipe.name: recipe.guidance for recipe in available()}
    arms = parse_arms(args.arms, (1.0,), known)
    print("| arm | " + " | ".join(f"FD at {level:g}" for level in LEVELS) + " |")
    print("|---|" + "--:|" * len(LEVELS))
    for arm in arms:
        found = [at_levels(front(bed, arm, args.nfe, args.images)) for bed in beds]
        row = " | ".join(number(mean(values), 3) for values in zip(*found, strict=True))
        print(f"| `{arm.label}` | {row} |", flush=True)


if __name__ == "__main__":
    main()
