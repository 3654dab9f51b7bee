"""Build small run folders and a network-free scorer for the tests of scoring and reporting."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from eval.extractor import Extractor

SIZE = 64
PROMPTS = [f"a <b>{colour}</b> circle & square" for colour in ("red", "green", "blue", "white")]
ARMS = ("ddim", "ddim_cfg++", "exp2m_cfg++")
OMEGAS = (1.5, 3.0, 5.0, 7.5)
SEEDS = (0, 1, 2)

COST = {"images": 1, "seconds": 0.1, "at_once": [4], "peak_bytes": None}  # of drawing an arm


def pattern(prompt: str) -> np.ndarray:
    """Return the 4×4×3 picture, in 0 … 1, that a perfect model would draw for a prompt."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).uniform(size=(4, 4, 3))


class MeanColours:
    """A scorer whose embedding is the picture at 2×2 pixels, centred; captions embed likewise."""

    name = "mean colours"
    identity = "mean-colours-1"
    calls = 0

    def images(self, pixels: np.ndarray) -> np.ndarray:
        self.calls += 1
        n, h, w, _ = pixels.shape
        cells = pixels.reshape(n, 2, h // 2, 2, w // 2, 3).mean((2, 4)).reshape(n, 12)
        return (cells / 255 - 0.5).astype(np.float32)

    def texts(self, prompts: list[str]) -> np.ndarray:
        big = [np.kron(pattern(p), np.ones((16, 16, 1))) * 255 for p in prompts]
        calls, out = self.calls, self.images(np.stack(big))
        self.calls = calls
        return out


def extractor() -> Extractor:
    return Extractor(MeanColours())


def draw(prompt: str, arm: str, omega: float, seed: int) -> np.ndarray:
    """Draw a prompt's pattern plus noise; noise falls with omega, contrast rises with it."""
    rng = np.random.default_rng([seed, len(prompt)])  # the same start for every arm
    noise = rng.normal(size=(4, 4, 3)) + 0.2 * np.random.default_rng(len(arm)).normal(size=3)
    level = (0.5 if arm.startswith("exp2m_cfg++") else 0.8) / omega
    contrast = 1 + 0.08 * omega
    small = 0.5 + contrast * (pattern(prompt) - 0.5) + level * noise
    return np.kron(np.clip(small, 0, 1) * 255, np.ones((16, 16, 1))).astype(np.uint8)


def make_run(folder: Path, arms=ARMS, omegas=OMEGAS, prompts=PROMPTS, seeds=SEEDS) -> Path:
    """Write a run folder with images, as `python -m eval run` would leave it; ~ approximates."""
    entries = []
    for arm in arms:
        for omega in omegas:
            key = f"{arm}@w{omega:g}"
            guidance = "cfg++" if arm.endswith("cfg++") else "cfg"
            entries.append(
                {"key": key, "arm": arm, "sampler": arm, "options": {}, "scale": omega,
                 "omega": omega, "guidance": guidance, "plan": []}
            )  # fmt: skip
            if "~" in arm:
                entries[-1]["approximation"] = {"whole": 10, "evaluations": 20, "rows": 40}
            (folder / "images" / key).mkdir(parents=True)
            for p, prompt in enumerate(prompts):
                for seed in seeds:
                    image = Image.fromarray(draw(prompt, arm, omega, seed))
                    image.save(folder / "images" / key / f"{p:03d}_{seed}.png")
    config = {
        "model": "standin-sd15", "standin": True, "nfe": 20, "arms": entries,
        "prompts": list(prompts), "prompts_file": "prompts/scenes100.txt", "prompts_sha256": "0",
        "seeds": list(seeds), "noise": "prompt and seed", "batch": 4, "size": [SIZE, SIZE],
        "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "env.json").write_text(json.dumps({"python": "3", "device": "cpu"}))
    (folder / "timing.json").write_text(json.dumps({e["key"]: COST for e in entries}))
    return folder


def make_reference(path: Path, count: int = 400) -> Path:
    """Write reference features: patterns of other prompts, with a little noise."""
    rng = np.random.default_rng(1)
    scorer = MeanColours()
    features = scorer.texts([f"prompt {i}" for i in range(count)])
    np.savez(path, features=features + 0.02 * rng.normal(size=features.shape).astype(np.float32))
    return path


def add_curve(folder: Path) -> None:
    """Write the curve.json of a scored run: its points at ω = 3, once at NFE 5 and once at 20."""
    results = json.loads((folder / "results.json").read_text())
    cells = [cell for cell in results["cells"].values() if cell["omega"] == 3.0]
    points = [
        {"nfe": nfe, **cell, "fid": cell["fid"] * 20 / nfe}
        for nfe in (5, 20)
        for cell in cells
        if nfe == 20 or cell["arm"] != "ddim_cfg++"
    ]
    found = {
        "stamp": results["stamp"], "omega": 3.0, "seeds": list(SEEDS), "arms": list(ARMS),
        "prompt_count": len(PROMPTS), "nfes": [5, 20], "points": points,
        "skipped": [{"arm": "ddim_cfg++", "nfe": 5, "reason": "it cannot"}],
    }  # fmt: skip
    (folder / "curve.json").write_text(json.dumps(found))
