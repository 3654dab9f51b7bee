"""The commands on finished runs and on references: report, curve, table, page, claim, reference."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from eval.commands import add_command
from eval.prompts import parse_seeds

NFES = "5,8,10,15,20,30,50"
FORMATS = ("latex", "markdown", "csv")
AT_HELP = """best: every arm at its strength of lowest FID (default); all: one row per strength; a
number: at that strength"""

EXAMPLES = {
    "report": """
  python -m eval report runs/standin""",
    "curve": """
  # the run's arms at 5, 8, 10, 15, 20, 30 and 50 evaluations, then its report with the curve in it
  python -m eval curve runs/standin
  python -m eval curve runs/standin --nfes 5,10,20 --omega 2.5 --arms ddim,exp2m_cfg++ --seeds 0""",
    "table": """
  python -m eval table runs/standin-sd15 runs/standin-sdxl --format latex > table.tex
  python -m eval table runs/standin-sd15 --format markdown --at all""",
    "page": """
  # a folder to commit: README.md with tables and figures, results.json, report.html
  python -m eval page runs/mine --out docs/results/mine --html
  python -m eval page docs/results/mine      # the same page again, from its results.json""",
    "claim": """
  python -m eval claim docs/results/weak-* --figure claim.png
  python -m eval claim docs/results/strong-sd15-web* --short
  python -m eval claim docs/results/weak-* --bests
  python -m eval claim runs/mine --json""",
    "reference": """
  python -m eval reference --standin
  python -m eval reference --coco val2017 --size 1024 --out coco.npz      # for SDXL
  python -m eval reference --images /path/to/photos --out photos.npz""",
}


def add_result_commands(
    commands: argparse._SubParsersAction, scoring: argparse.ArgumentParser
) -> None:
    """Add the commands; `scoring` holds the options of `score`."""
    text = "write a scored run folder's report"
    report = add_command(commands, "report", text, EXAMPLES["report"], _report)
    report.add_argument("folder", type=Path)

    text = "draw and score a run's arms at several NFE; started again, it resumes"
    curve = add_command(commands, "curve", text, EXAMPLES["curve"], _curve, [scoring])
    curve.add_argument("folder", type=Path)
    curve.add_argument("--nfes", default=NFES, help=f"evaluations per image (default {NFES})")
    text = "strength in CFG units (default: the middle one of the run)"
    curve.add_argument("--omega", type=float, help=text)
    curve.add_argument("--arms", help="samplers without @ (default: those of the run)")
    curve.add_argument("--seeds", help="such as 0-4 or 0,3,7 (default: those of the run)")
    curve.add_argument("--model", help="where the run's model is, if it was a folder")
    curve.add_argument("--device", help="default: cuda, else mps, else cpu")

    text = "print scored runs as a table for a paper"
    table = add_command(commands, "table", text, EXAMPLES["table"], _table)
    table.add_argument("folders", type=Path, nargs="+", metavar="folder")
    table.add_argument("--format", choices=FORMATS, default="markdown", help="(default markdown)")
    table.add_argument("--at", default="best", help=AT_HELP)

    text = "publish a reported run as a README.md with tables and figures"
    page = add_command(commands, "page", text, EXAMPLES["page"], _page)
    page.add_argument("folder", type=Path, help="a run that was scored and reported, or a page")
    page.add_argument("--out", type=Path, help="folder of the page (default: the same folder)")
    page.add_argument("--figures", help="such as front,grid (default: all there are)")
    page.add_argument("--html", action="store_true", help="publish report.html, too")

    text = "say what scored runs show about the focus arm, from their results.json"
    claim = add_command(commands, "claim", text, EXAMPLES["claim"], _claim)
    claim.add_argument("runs", type=Path, nargs="+", help="folders or results.json files")
    form = claim.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the comparisons as JSON")
    form.add_argument("--short", action="store_true", help="print one row per run, not per arm")
    text = "print each arm's lowest FID and highest CLIP, too"
    form.add_argument("--bests", action="store_true", help=text)
    claim.add_argument("--figure", type=Path, help="also draw them into this PNG")
    claim.add_argument("--fronts", type=Path, help="also draw FID against CLIP of all runs")

    text = "compute reference statistics for FID"
    reference = add_command(commands, "reference", text, EXAMPLES["reference"], _reference)
    kind = reference.add_mutually_exclusive_group(required=True)
    kind.add_argument("--standin", action="store_true", help="render scenes, for the stand-ins")
    kind.add_argument("--images", type=Path, help="folder of images")
    kind.add_argument("--coco", metavar="SPLIT", help="val2017: downloads 816 MB, then reads that")
    reference.add_argument("--out", type=Path, help="file to write, .npz (default: the cache)")
    reference.add_argument("--scorer", help="CLIP model: a folder or an open_clip name")
    text = "pixels that images are cropped and resized to, as the model's (default 512)"
    reference.add_argument("--size", type=int, default=512, help=text)


def _report(args: argparse.Namespace) -> None:
    from eval.report import report

    print(report(args.folder))


def _curve(args: argparse.Namespace) -> None:
    from eval.curve import curve, parse_nfes, text

    found = curve(
        args.folder,
        parse_nfes(args.nfes),
        args.omega,
        args.arms,
        parse_seeds(args.seeds) if args.seeds else None,
        model=args.model,
        device=args.device,
        scorer=args.scorer,
        reference=args.reference,
        bootstrap=args.bootstrap,
        second_scorer=args.second_scorer,
    )
    print(json.dumps(found) if args.json else text(found))
    if not (args.folder / "results.json").is_file():
        print(f"no report: score the run itself first (eval score {args.folder})", file=sys.stderr)
        return
    from eval.report import report

    print(f"report: {report(args.folder)}", file=sys.stderr if args.json else sys.stdout)


def _table(args: argparse.Namespace) -> None:
    from eval.latex import table

    print(table(args.folders, args.format, args.at), end="")


def _page(args: argparse.Namespace) -> None:
    from eval.page import page

    figures = args.figures.split(",") if args.figures else None
    print(page(args.folder, args.out, figures, args.html))


def _claim(args: argparse.Namespace) -> None:
    from eval.claim import claim, overview, read

    runs = read(args.runs)
    if args.figure:
        from eval.claim_figure import figure
        from eval.figures import save

        print(f"figure: {save(figure(runs), args.figure)}", file=sys.stderr)
    if args.fronts:
        from eval.figures import fronts, save

        print(f"figure: {save(fronts(runs), args.fronts)}", file=sys.stderr)
    if args.json:
        names = {"clip": "fid_at_equal_clip", "fid": "clip_at_equal_fid"}
        found = {
            name: {"focus": results["focus"]}
            | {told: results["front"][at] for at, told in names.items()}
            for name, results in runs.items()
        }
        print(json.dumps(found))
    elif args.bests:
        from eval.summary import bests

        print(bests(runs))
    else:
        print(overview(runs) if args.short else claim(runs))


def _reference(args: argparse.Namespace) -> None:
    if args.size < 1:
        raise ValueError(f"--size {args.size}: give pixels, at least 1")
    if args.coco is None:
        from eval.reference import build

        print(build(args.images, args.out, args.scorer, args.size))
    else:
        from eval import coco

        print(coco.build(args.coco, args.out, args.scorer, args.size))
