"""Measure a stand-in: what its VAE keeps, what its scorer knows, what its samples get right."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL

from eval.scorers import Scorer
from standins import scenes
from standins.checker import Checker, Seen
from standins.negatives import KINDS, hard_negatives

GROUP = 100  # captions among which the scorer must find the right one
NEGATIVES = 5  # hard negatives per caption, each wrong in one attribute


@dataclass(frozen=True)
class Share:
    """`hits` of `of` cases, with a 95 % Wilson interval."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        return self.hits / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if not self.of:
            return 0.0, 1.0
        z, p, n = 1.959964, self.value, self.of
        middle, reach = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return tuple(float((middle + s * reach) / (1 + z * z / n)) for s in (-1, 1))

    def json(self) -> dict:
        return asdict(self) | {"value": self.value, "interval95": self.interval}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:5.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {self.of}"


def share(flags: list[bool]) -> Share:
    return Share(int(sum(flags)), len(flags))


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Turn floats in [-1, 1] into uint8 levels, as a saved picture has them."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def reading(drawn: list[scenes.Scene], seen: list[list[Seen]]) -> dict[str, Share]:
    """Compare scenes drawn with objects read, as multisets per picture.

    `shapes`, `colours`, `pairs` count objects; `scenes` counts pictures read with exactly the
    objects drawn, `singles` those of one object.
    """
    kept, total = Counter(), sum(len(scene.things) for scene in drawn)
    exact: list[tuple[int, bool]] = []
    for scene, objects in zip(drawn, seen, strict=True):
        true = Counter(thing.pair for thing in scene.things)
        read = Counter((shape, colour) for shape, colour, *_ in objects)
        for name, part in (("shapes", 0), ("colours", 1)):
            first = Counter(pair[part] for pair in true.elements())
            kept[name] += (first & Counter(pair[part] for pair in read.elements())).total()
        kept["pairs"] += (true & read).total()
        exact.append((len(scene.things), true == read))
    shares = {name: Share(kept[name], total) for name in ("shapes", "colours", "pairs")}
    shares["scenes"] = share([right for _, right in exact])
    shares["singles"] = share([right for count, right in exact if count == 1])
    return shares


def vae_keeps(
    vae: AutoencoderKL, checker: Checker, pixels: np.ndarray, drawn: list[scenes.Scene]
) -> tuple[dict[str, dict[str, Share]], np.ndarray, float]:
    """Read renders uint8 (n, 64, 64, 3) before and after the VAE.

    Returns (shares by "clean" and "round trip", the pictures after it, pooled PSNR in dB).
    """
    clean = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    images = clean.float() / 127.5 - 1
    with torch.inference_mode():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
        back = torch.cat([vae.decode(part).sample for part in latents.split(64)])
    back = to_uint8(back)
    mse = float(((back.float() - clean.float()) ** 2).mean())
    shares = {"clean": reading(drawn, checker.read(clean))}
    shares["round trip"] = reading(drawn, checker.read(back))
    return shares, back.permute(0, 2, 3, 1).contiguous().numpy(), 10 * np.log10(255**2 / mse)


def scorer_picks(scorer: Scorer, pixels: np.ndarray, captions: list[str]) -> dict[str, Share]:
    """Ask the scorer for each picture's caption.

    `of 100`: it scores highest among the 100 of its group. `hard`: it beats all of five captions
    that are wrong in one attribute. `hard: KIND`: it beats the ones wrong in that attribute.
    """
    wrong = [
        hard_negatives(text, np.random.default_rng((7, k)), NEGATIVES)
        for k, text in enumerate(captions)
    ]
    flat = [text for group in wrong for _, text in group]
    picture, right, false = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (scorer.images(pixels), scorer.texts(captions), scorer.texts(flat))
    )
    false = false.reshape(len(captions), NEGATIVES, -1)
    own = (picture * right).sum(1)
    beaten = own[:, None] > np.einsum("nd,nkd->nk", picture, false)
    first: list[bool] = []
    for start in range(0, len(captions) - GROUP + 1, GROUP):
        rows = slice(start, start + GROUP)
        first += list((picture[rows] @ right[rows].T).argmax(1) == np.arange(GROUP))
    shares = {f"of {GROUP}": share(first), "hard": share(list(beaten.all(1)))}
    for kind in KINDS:
        flags = [
            bool(beaten[n, k])
            for n, group in enumerate(wrong)
            for k, (wrong_kind, _) in enumerate(group)
            if wrong_kind == kind
        ]
        shares[f"hard: {kind}"] = share(flags)
    return shares


def samples_keep(captions: list[str], seen: list[list[Seen]]) -> dict[str, Share]:
    """Compare what generated pictures show with what their captions promise.

    `one: …` are captions of one object, `new: …` those of one object whose pair of shape and
    colour training never drew, `two: …` captions of two; `right` is every caption's `all`.
    """
    flags: dict[str, list[bool]] = {"right": []}
    for text, objects in zip(captions, seen, strict=True):
        promise = scenes.parse(text)
        verdict = scenes.keeps(promise, objects)
        flags["right"].append(verdict["all"])
        sets = {1: ["one"], 2: ["two"]}.get(len(promise.pairs), [])
        if sets == ["one"] and promise.pairs[0] in scenes.HELD_OUT:
            sets.append("new")
        for name in sets:
            for what in ("colours", "shapes", "pairs", "all"):
                flags.setdefault(f"{name}: {what}", []).append(verdict[what])
    return {name: share(values) for name, values in flags.items()}
