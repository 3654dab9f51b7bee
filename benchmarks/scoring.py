"""Measure what scoring costs beside the bare extraction of features.

    OMP_NUM_THREADS=1 python -m benchmarks.scoring
    OMP_NUM_THREADS=1 python -m benchmarks.scoring --images 1000 --repeats 3

Bare extraction: read the PNG files with Pillow and run the networks on them (the stand-ins' scorer
and exact checker), in batches of 128. Scoring: `eval.score.score` on the same files without any
cache of their features: reading and checking files, the same networks, all measures, 2,000
resamples, all comparisons, the files and the tables. Both take turns in one process; loaded
networks and the reference's cache are made before, and count on neither side (`score` loads the
networks again: that time is measured apart and taken off). The images are renders of scenes: two
arms at two strengths. CPU time, which other processes do not lengthen; the fastest of the repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eval import score as scoring
from eval.extractor import Extractor, extractor_for
from standins import scenes

SEEDS, BATCH = 5, 128
ARMS = tuple((arm, omega) for arm in ("ddim", "exp2m_cfg++") for omega in (2.0, 5.0))


def make_run(folder: Path, images: int) -> int:
    """Write a run folder of rendered scenes; return how many images it has."""
    count = max(1, images // (len(ARMS) * SEEDS))
    prompts = [scenes.sample("prompts", p, held_out=None)[2] for p in range(count)]
    arms = []
    for a, (arm, omega) in enumerate(ARMS):
        key = f"{arm}@w{omega:g}"
        guidance = "cfg++" if arm.endswith("cfg++") else "cfg"
        arms.append({"key": key, "arm": arm, "sampler": arm, "options": {}, "scale": omega})
        arms[-1] |= {"omega": omega, "guidance": guidance}
        (folder / "images" / key).mkdir(parents=True)
        for i in range(count * SEEDS):
            pixels = scenes.sample("train", a * count * SEEDS + i)[1]
            name = f"{i // SEEDS:03d}_{i % SEEDS}.png"
            Image.fromarray(pixels).save(folder / "images" / key / name)
    config = {"model": "standin-sd15", "standin": True, "nfe": 20, "arms": arms}
    config |= {"prompts": prompts, "prompts_sha256": "", "prompts_file": ""}
    config |= {"seeds": list(range(SEEDS)), "size": [64, 64], "batch": 50, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return count * SEEDS * len(ARMS)


def bare(folder: Path, extractor: Extractor) -> None:
    """Read all images and run the networks on them."""
    prompts = json.loads((folder / "config.json").read_text(encoding="utf-8"))["prompts"]
    files = sorted(folder.glob("images/*/*.png"))
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in batch])
        extractor.scorer.images(pixels)
        captions = [prompts[int(path.name[:3])] for path in batch]
        extractor.checker.verdicts(pixels, captions)


def whole(folder: Path) -> None:
    """Score the folder, from the images on."""
    shutil.rmtree(folder / "features", ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        scoring.score(folder)


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="(default 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="(default 3)")
    args = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: BLAS threads that wait would count as work")
    torch.set_num_threads(1)
    extractor, _ = extractor_for(None, standin=True, fid=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        count = make_run(folder, args.images)
        whole(folder)  # makes the reference's cache
        taken = {"loading": [], "bare": [], "score": []}
        for _ in range(args.repeats):
            taken["loading"].append(seconds(lambda: extractor_for(None, True, True)))
            taken["bare"].append(seconds(lambda: bare(folder, extractor)))
            taken["score"].append(seconds(lambda: whole(folder)))
    loading, extraction, scored = (min(taken[name]) for name in ("loading", "bare", "score"))
    print(f"{count} images, {torch.get_num_threads()} thread, fastest of {args.repeats}:")
    print(f"  bare extraction  {extraction:.2f} s")
    print(f"  scoring          {scored - loading:.2f} s, and {loading:.2f} s to load the networks")
    print(f"  ratio            {(scored - loading) / extraction:.2f}")


if __name__ == "__main__":
    main()
