"""Show what SDXL's size conditioning does on its stand-in: one column per (original size, crop).

    python -m standins.sizes docs/results/standin_sizes.png

Prints, over 80 captions, how much the pictures change and how far their objects move, as the
checker sees them.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch

from eval.images import to_uint8, write_atomic
from latent_sdxl import get_solver
from standins import scenes
from standins.checker import Checker
from standins.views import View

FOLDER = Path(__file__).resolve().parent / "sdxl"
VIEWS = (View(), View(16), View(crop=(10, 10)), View(crop=(20, 0)), View(crop=(0, 20)))
CAPTIONS, SHOWN = 80, 4


def title(view: View) -> str:
    return f"original {view.original}\ncrop {view.crop}"


def pictures(view: View, captions: list[str]) -> np.ndarray:
    """Sample the captions under a view, seed k for caption k: uint8 (n, 64, 64, 3)."""
    solver = get_solver(
        "dpm2m", solver_config={"num_sampling": 20}, model_key=str(FOLDER), device="cpu"
    )
    sizes = {"original_size": (view.original,) * 2, "crops_coords_top_left": view.crop}
    return to_uint8(
        solver.sample(
            prompt1=["", captions], cfg_guidance=3.0, seeds=list(range(len(captions))), **sizes
        )
    )


def centres(images: np.ndarray) -> np.ndarray:
    """Return the checker's mean object centre per image, (n, 2) as (y, x); NaN without objects."""
    seen = Checker.load().read(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return np.array(
        [
            np.mean([(y, x) for *_, x, y in found], axis=0) if found else (np.nan,) * 2
            for found in seen
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m standins.sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "out", type=Path, nargs="?", default=Path("build/sizes.png"), help="default build/sizes.png"
    )
    out = parser.parse_args().out
    captions = [scenes.sample("test", k, count=1)[2] for k in range(CAPTIONS)]
    drawn = {view: pictures(view, captions) for view in VIEWS}
    whole = drawn[VIEWS[0]]
    print("| original size | crop (top, left) | mean change of a pixel, of 255 | objects move |")
    print("|---|---|---|---|")
    for view, images in drawn.items():
        down, right = np.nanmedian(centres(images) - centres(whole), axis=0)
        change = np.abs(images.astype(float) - whole).mean()
        print(
            f"| {view.original} | {view.crop} | {change:.1f} | {down:+.1f} px down, "
            f"{right:+.1f} px right |"
        )

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        SHOWN, len(VIEWS), figsize=(1.35 * len(VIEWS), 1.35 * SHOWN + 0.5), layout="constrained"
    )
    for row in range(SHOWN):
        for column, view in enumerate(VIEWS):
            axis = axes[row, column]
            axis.imshow(drawn[view][row])
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title(view), fontsize=8)
    figure.suptitle("sdxl stand-in, not Stable Diffusion", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format=out.suffix[1:] or "png")
    write_atomic(out, picture.getvalue())


if __name__ == "__main__":
    main()
