"""Write the page and the figure of `benchmarks.approximate` from its JSON files."""

from __future__ import annotations

import json
from pathlib import Path

INTRO = """# Approximate speed

Nearly the same images in less time. **These rows are not NFE = 20 results**: of the 20 evaluations
only the *whole* ones run all of the UNet. The name after `~` says what is approximated.

- `propagate`: the UNet's encoder and middle block run at key steps, and the decoders of the steps
  up to the next key run with them in one batch (Faster Diffusion, arXiv:2312.09608).
- `cache`: between key steps the outermost `depth` units run, the deep branch is kept (DeepCache,
  arXiv:2312.00858).
- `gate`: after a share of the steps only the conditional row runs; `hold` keeps the last difference
  to the unconditional row, `drop` ends guidance, which CFG++ samplers refuse: they renoise with
  that row.
- `exact:14`: the plain sampler with 14 evaluations. What saves time has to beat this.

Written by `python -m benchmarks.approximate`; its `--help` says how time is taken. Speed-ups are
the median over pairs with the exact run, text encoder and VAE included. Differences are to the
exact run with the same prompts and seeds, with 95 % intervals (bootstrap over prompts); **bold**:
it stays after Holm's correction over the ways of one sampler, else it is not distinguishable.
Pixel distance: root mean square, of 255.

What the parts weigh in Stable Diffusion's own networks: [FLOPs](approximate_flops.md). How features
change over the steps: [plot](feature_change_standin-sd15.png), by
`python -m benchmarks.feature_change --model standin-sd15`.
"""
PUBLISHED = """## Published, for comparison

Faster Diffusion's own figures on Stable Diffusion 1.5, on its authors' GPU: published, not ours.

| sampler | seconds per image | speed-up | FID |
|---|---|---:|---|
| DDIM, 50 steps | 2.42 → 1.42 | 1.70 | 21.75 → 21.08 |
| DPM-Solver++, 20 steps | 1.13 → 0.64 | 1.77 | 20.51 → 20.76 |
"""
MEASURES = (("clip", "CLIP × 100", 2), ("fid", "FID", 2), ("all_right", "captions kept, %", 1))
COLORS = ("#0072b2", "#d55e00", "#009e73", "#999999", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v")


def write_page(folder: Path) -> str:
    """Write approximate.md and approximate.png from approximate/*.json; return the page."""
    results = [json.loads(p.read_text()) for p in sorted((folder / "approximate").glob("*.json"))]
    results.sort(key=lambda r: (r["kind"] != "report", r["model"]))
    parts = [INTRO]
    reports = [r for r in results if r["kind"] == "report"]
    if reports:
        figure(reports, folder / "approximate.png")
        parts.append("![Speed-up against what changes in the images](approximate.png)\n")
    parts += [_section(result) for result in results]
    page = "\n".join([*parts, PUBLISHED])
    (folder / "approximate.md").write_text(page, encoding="utf-8")
    return page


def _section(r: dict) -> str:
    kind = "reported, held-out prompts" if r["kind"] == "report" else "sweep, development prompts"
    seeds = f"{r['seeds'][0]}–{r['seeds'][-1]}"
    floor = (
        f"; as many more reference pictures have FID {r['fid_floor']:.2f}" if r["fid_floor"] else ""
    )
    lines = [
        f"## {r['stamp']}: {kind}\n",
        f"`{r['command']}`\n",
        f"{r['prompt_count']} prompts ({r['prompts']}) × seeds {seeds}, ω = {r['omega']:g}, "
        f"{r['dtype']}; {r['machine']}, {r['clock']}, torch {r['torch']}, diffusers "
        f"{r['diffusers']}; {r['single']} pairs at batch 1{floor}.\n",
        "| sampler | evaluations: whole + part | UNet rows | speed-up, batch 1 | "
        f"batch {r['batch']} | CLIP × 100 | FID | captions kept, % | pixel distance |",
        "|---|---:|---:|---:|---:|---|---|---|---:|",
    ]
    return "\n".join([*lines, *(_row(row) for row in r["rows"]), ""])


def _row(row: dict) -> str:
    exact = row["way"] == "exact"
    name = row["method"] if row["way"].startswith("exact") else f"{row['method']}~{row['way']}"
    if row["way"].startswith("exact:"):
        name += f", NFE {row['evaluations']}"
    cells = [f"`{name}`", f"{row['whole']} + {row['partial']}", str(row["rows"])]
    cells += ["1" if exact else f"{row[k]['speedup']:.2f}" for k in ("single", "batched")]
    for measure, _, digits in MEASURES:
        cells.append(_value(row, measure, digits))
    cells.append("0" if exact else f"{row['against']['pixel_rmse']:.1f}")
    return f"| {' | '.join(cells)} |"


def _value(row: dict, measure: str, digits: int) -> str:
    if row.get(measure) is None:
        return "–"
    factor = 100 if measure == "all_right" else 1
    if row["way"] == "exact":
        return f"{factor * row[measure]:.{digits}f}"
    found = row["against"][measure]
    low, high = (factor * x for x in found["interval"])
    text = f"{factor * found['difference']:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f})"
    return text if found["verdict"] == "not distinguishable" else f"**{text}**"


def _has(report: dict, measure: str) -> bool:
    return any(measure in row.get("against", {}) for row in report["rows"])


def figure(reports: list[dict], file: Path) -> None:
    """Draw change of CLIP and FID and pixel distance over speed-up; one row of panels per model.

    A real model without a reference has no FID; its panel is left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = (
        ("clip", "change of CLIP × 100"),
        ("fid", "change of FID"),
        ("pixel_rmse", "pixel distance"),
    )
    panels = [(name, label) for name, label in known if any(_has(r, name) for r in reports)]
    shape = len(reports), len(panels)
    canvas, axes = plt.subplots(*shape, figsize=(11, 3 * shape[0] + 1), squeeze=False)
    for r, line in zip(reports, axes, strict=True):
        methods = list(dict.fromkeys(row["method"] for row in r["rows"]))
        names = list(dict.fromkeys(row["way"] for row in r["rows"] if row["way"] != "exact"))
        for (measure, label), axis in zip(panels, line, strict=True):
            if not _has(r, measure):
                axis.set_visible(False)
                continue
            for row in r["rows"]:
                if row["way"] == "exact":
                    continue
                y = found = row["against"][measure]
                span = y, y
                if measure != "pixel_rmse":
                    y, span = found["difference"], found["interval"]
                axis.errorbar(
                    row["batched"]["speedup"], y, [[y - span[0]], [span[1] - y]],
                    color=COLORS[names.index(row["way"]) % len(COLORS)],
                    marker=MARKERS[methods.index(row["method"]) % len(MARKERS)],
                    ms=5, lw=0.8, label=f"{row['method']}, {row['way']}",
                )  # fmt: skip
            if measure != "pixel_rmse":
                axis.axhline(0, color="0.6", lw=0.8)
            axis.axvline(1.4, color="0.8", lw=0.8, ls=":")
            axis.set_xlabel(f"speed-up at batch {r['batch']}")
            axis.set_ylabel(label)
            axis.set_title(r["stamp"], fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="lower center", ncol=3, fontsize=7, frameon=False)
    canvas.tight_layout(rect=(0, 0.2 / shape[0] + 0.02, 1, 1))
    canvas.savefig(file, dpi=130, metadata={"Software": None})
    plt.close(canvas)
