"""Measure a stand-in against the floors that it must reach to be a test bed for samplers.

    python -m standins.evaluate sd15
    python -m standins.evaluate sdxl --images 100 --scan-images 50 --scales 1,3,8 --nfe 20

Samples captions of split "test" with plain CFG at several scales, takes the scale at which the
checker finds most captions kept, and measures VAE, scorer and samples. All numbers are the
stand-in's own, never Stable Diffusion's. The table goes to stdout; JSON and the curve beside it.
Samples are kept under build/evaluate, so the same command twice does no work twice.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch

from eval import models, reference
from eval.commands import Parser, natural, one_line_errors
from eval.extractor import Extractor, extractor_for
from eval.folder import code_digest
from eval.images import to_uint8, write_atomic
from eval.metrics import Statistics, frechet, frechet_floor
from eval.progress import Progress
from samplers import available, compile_plan
from samplers.errors import choose
from standins import scenes
from standins.checker import Checker
from standins.curve import plot
from standins.degrade import load_vae
from standins.measures import Share, samples_keep, scorer_picks, vae_keeps

FOLDER = Path(__file__).resolve().parent
NEW_START, NEW = 100_000, 200  # further test captions: one object, a pair never drawn in training
FLOORS = {  # name: least share
    "VAE round trip: shapes": 0.95,
    "VAE round trip: colours": 0.98,
    "checker on clean renders: single objects": 0.995,
    "scorer: right caption of 100": 0.90,
    "scorer: against hard negatives": 0.80,
    "samples, one object: colour": 0.95,
    "samples, one object: shape": 0.80,
    "samples, one object: both": 0.75,
    "samples, one object, pair never drawn: both": 0.60,
    "samples, two objects: all right": 0.40,
}


class Gallery:
    """Samples of one model, made once: `pixels` returns uint8 (n, 64, 64, 3) for captions."""

    def __init__(self, folder: Path, sampler: str, nfe: int, keep: Path, batch: int = 50):
        self.sampler, self.nfe, self.keep, self.batch = sampler, nfe, keep, batch
        self.sd = models.load(models.find(str(folder)), nfe, "cpu", "float32")
        weights = sorted(folder.rglob("*.safetensors"))
        self.identity = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]

    def pixels(self, captions: list[str], scale: float) -> np.ndarray:
        """Sample caption k with seed k, whatever the scale."""
        key = repr((self.identity, code_digest(), self.sampler, self.nfe, scale, captions))
        path = self.keep / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        kept = unspoilt(path, len(captions))
        if kept is not None:
            return kept
        plan = compile_plan(self.sampler, self.sd.schedule, nfe=self.nfe, scale=scale)
        made = []
        with Progress(len(captions), f"sampling at scale {scale:g}") as progress:
            for start in range(0, len(captions), self.batch):
                part = captions[start : start + self.batch]
                seeds = list(range(start, start + len(part)))
                made.append(to_uint8(self.sd.generate(plan, part, seeds)[1]))
                progress.advance(len(part))
        whole, file = np.concatenate(made), io.BytesIO()
        np.save(file, whole)
        write_atomic(path, file.getvalue())
        return whole


def unspoilt(path: Path, count: int) -> np.ndarray | None:
    """Return `count` kept samples; None where there are none, or a killed process left a part."""
    try:
        kept = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return kept if len(kept) == count else None


def read(checker: Checker, pixels: np.ndarray) -> list:
    return checker.read(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


def scan(
    gallery: Gallery, captions: list[str], scales: list[float], checker: Checker, judge: Extractor
) -> list[dict]:
    """Return, per scale, the Fréchet distance to clean renders and the captions kept."""
    real = reference.rendered(judge, reference.DOMAIN).statistics
    rows = []
    for scale in scales:
        pixels = gallery.pixels(captions, scale)
        kept = samples_keep(captions, read(checker, pixels))
        fid = frechet(Statistics.of(judge.fid_features(pixels)), real)
        rows.append({"scale": scale, "fid": fid, **{k: s.json() for k, s in kept.items()}})
    return rows


def interior(values: list[float]) -> bool:
    """Tell whether the least value is strictly below both ends."""
    return min(values) < min(values[0], values[-1])


def floors_of(shares: dict[str, Share], rows: list[dict]) -> list[dict]:
    """Return each floor with what was measured and whether it is reached."""
    listed = [
        {
            "floor": name,
            "least": least,
            **shares[name].json(),
            "text": str(shares[name]),
            "reached": shares[name].value >= least,
        }
        for name, least in FLOORS.items()
    ]
    fid, kept = [row["fid"] for row in rows], [row["right"]["value"] for row in rows]
    for name, values in (
        ("FID over scale has an interior minimum", fid),
        ("captions kept rise with scale, then fall", [-k for k in kept]),
    ):
        shown = ", ".join(f"{abs(v):.3g}" for v in values)
        listed.append({"floor": name, "text": shown, "reached": interior(values)})
    return listed


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="sd15, sd20, sdxl, or a folder with a pipeline")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--scan-images", type=int, default=150, help="per scale")
    parser.add_argument("--scales", default="1,1.5,2,3,5,8,12")
    parser.add_argument("--nfe", type=natural, default=100)
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--out", type=Path, help="JSON file; by default in the model's folder")
    parser.add_argument("--keep", type=Path, default=Path("build/evaluate"), help="samples")
    args = parser.parse_args()
    named = FOLDER / args.model
    args.folder = named if named.is_dir() else Path(args.model)
    if not (args.folder / "model_index.json").is_file():
        parser.error(f"no pipeline at {args.folder}; give sd15 or a folder with model_index.json")
    try:
        args.scales = [float(scale) for scale in args.scales.split(",")]
    except ValueError:
        parser.error(f"--scales {args.scales!r}: give numbers with commas, such as 1,2,4,8")
    if len(args.scales) < 3 or args.images < 100:
        parser.error("--scales needs three or more, to have an interior, and --images 100 or more")
    choose("sampler", args.sampler, {recipe.name: recipe for recipe in available()})
    args.out = args.out or args.folder / "evaluation.json"
    if args.out.is_dir():
        parser.error(f"--out {args.out} is a folder; give a file")
    args.out.parent.mkdir(parents=True, exist_ok=True)  # hours before it is written
    return args


def _without_places(words: list[str]) -> list[str]:
    """Drop the options that only say where files lie, which differs between machines."""
    pairs = zip(words, ["", *words], strict=False)
    return [w for w, before in pairs if not {w, before} & {"--keep", "--out"}]


@one_line_errors()
def main() -> None:
    args = parse_args()
    drawn, pixels, captions = zip(
        *(scenes.sample("test", k, held_out=None) for k in range(args.images)), strict=True
    )
    pixels, captions = np.stack(pixels), list(captions)
    checker, (judge, _) = Checker.load(), extractor_for(None, standin=True, fid=True)
    kept, back, psnr = vae_keeps(load_vae(args.folder / "vae", "cpu"), checker, pixels, list(drawn))
    picks = {"clean": scorer_picks(judge.scorer, pixels, captions)}
    picks["round trip"] = scorer_picks(judge.scorer, back, captions)

    gallery = Gallery(args.folder, args.sampler, args.nfe, args.keep)
    rows = scan(gallery, captions[: args.scan_images], args.scales, checker, judge)
    best = max(rows, key=lambda row: row["right"]["value"])["scale"]
    new = [scenes.sample("test", NEW_START + k, count=1, held_out=True)[2] for k in range(NEW)]
    generated = gallery.pixels(captions, best)
    shown = samples_keep(captions, read(checker, generated))
    fresh = samples_keep(new, read(checker, gallery.pixels(new, best)))
    real = reference.rendered(judge, reference.DOMAIN)
    fid = frechet(Statistics.of(judge.fid_features(generated)), real.statistics)

    floors = floors_of(
        {
            "VAE round trip: shapes": kept["round trip"]["shapes"],
            "VAE round trip: colours": kept["round trip"]["colours"],
            "checker on clean renders: single objects": kept["clean"]["singles"],
            "scorer: right caption of 100": picks["clean"]["of 100"],
            "scorer: against hard negatives": picks["clean"]["hard"],
            "samples, one object: colour": shown["one: colours"],
            "samples, one object: shape": shown["one: shapes"],
            "samples, one object: both": shown["one: pairs"],
            "samples, one object, pair never drawn: both": fresh["new: pairs"],
            "samples, two objects: all right": shown["two: all"],
        },
        rows,
    )
    result = {
        "note": "numbers of a stand-in, not of Stable Diffusion",
        "command": " ".join(["python -m standins.evaluate", *_without_places(sys.argv[1:])]),
        "settings": {
            "sampler": args.sampler,
            "nfe": args.nfe,
            "images": args.images,
            "scan_images": args.scan_images,
            "best_scale": best,
        },
        "floors": floors,
        "scan": rows,
        "fid": {
            "at best scale": fid,
            "images": args.images,
            "reference": real.label,
            "of as many clean renders": frechet_floor(real.features, args.images),
        },
        "vae": {k: {n: s.json() for n, s in v.items()} for k, v in kept.items()}
        | {"psnr_db": psnr},
        "scorer": {k: {n: s.json() for n, s in v.items()} for k, v in picks.items()},
        "samples": {
            n: s.json()
            for n, s in (shown | {k: fresh[k] for k in fresh if k.startswith("new")}).items()
        },
    }
    write_atomic(args.out, (json.dumps(result, indent=1) + "\n").encode())
    plot(rows, args.out.with_suffix(".png"))
    print(
        f"{args.folder.name} (stand-in): {args.sampler}, NFE {args.nfe}, best scale {best:g}, "
        f"FID {fid:.2f}, VAE {psnr:.2f} dB"
    )
    for row in floors:
        least = f"≥ {100 * row['least']:g} %" if "least" in row else ""
        verdict = "reached" if row["reached"] else "NOT REACHED"
        print(f"{verdict:12s} {row['floor']:46s} {least:8s} {row['text']}")


if __name__ == "__main__":
    main()
