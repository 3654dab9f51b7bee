"""Command line: `python -m eval run|score|report|page|curve|table|reference|generate|…|prefetch`.

Results go to stdout, progress to stderr. Exit code 2 and one line for input that cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from pathlib import Path

from eval.arms import DEFAULT_ARMS, DEFAULT_SCALES, parse_scales, with_approximations
from eval.commands import Parser, add_command, add_place, in_one_line
from eval.picture_commands import MODEL_HELP, add_commands
from eval.prompts import parse_seeds
from eval.result_commands import add_result_commands
from eval.search.command import add_search
from eval.shards import shard

RESUMABLE = ("run", "curve", "reference", "prefetch")
EXAMPLES = {
    "": """
  python -m eval run --model standin-sd15 --out runs/first --limit 40 --seeds 0
  python -m eval score runs/first
  python -m eval report runs/first
  python -m eval generate --model standin-sd15 --prompt "a large red circle" --out circle.png
  python -m eval prefetch --model sd15 --scorers --dry-run""",
    "run": """
  # all arms on the stand-in, then scores and report (the default prompts, seeds and scales)
  python -m eval run --model standin-sd15 --out runs/standin
  # a first look: two arms at one strength, 30 prompts
  python -m eval run --arms ddim,exp2m_cfg++ --scales 5 --limit 30 --seeds 0 --out runs/look
  # an ablation: options in brackets, own strength after @ (lambda for CFG++, omega for CFG)
  python -m eval run --arms 'exp2m_cfg++[eta=0.5,order=3]@0.6,ddim_cfg++@0.6' --out runs/eta
  # Stable Diffusion 1.5 from a folder
  python -m eval run --model /path/to/sd15 --prompts prompts/coco100.txt --out runs/sd15
  # the same on 8 GPUs; also on several machines that share the folder
  accelerate launch --multi_gpu --num_processes 8 -m eval run --model /path/to/sd15 \\
      --prompts prompts/coco100.txt --out runs/sd15""",
    "score": """
  python -m eval score runs/standin
  python -m eval score runs/sd15 --reference coco_statistics.npz""",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; `--help` of each opens with examples."""
    parser = Parser(prog="python -m eval", usage=EXAMPLES[""], description=__doc__)
    commands = parser.add_subparsers(
        dest="command", required=True, parser_class=Parser, prog="python -m eval"
    )

    scoring = argparse.ArgumentParser(add_help=False)
    group = scoring.add_argument_group("scoring")
    group.add_argument("--scorer", help="CLIP model: a folder or an open_clip name")
    text = "another CLIP model beside it (default: LAION's ViT-B/16; none for stand-ins)"
    group.add_argument("--second-scorer", help=text)
    text = (
        "statistics (.npz) or image folder for FID; stand-ins need none: they are compared with "
        "renders of other captions' scenes, or by standin-domain with scenes as they come"
    )
    group.add_argument("--reference", help=text)
    group.add_argument("--bootstrap", type=int, default=2000, help="resamples (default 2000)")
    group.add_argument("--json", action="store_true", help="print results as JSON")

    text = "draw, score and report; started again, it resumes"
    run = add_command(commands, "run", text, EXAMPLES["run"], _run, [scoring])
    run.add_argument("--model", default="standin-sd15", help=f"{MODEL_HELP} (default standin-sd15)")
    run.add_argument("--arms", default=DEFAULT_ARMS, help=f"samplers (default {DEFAULT_ARMS})")
    run.add_argument(
        "--scales",
        default=DEFAULT_SCALES,
        help="strengths in CFG units for every arm without @; CFG++ arms convert them "
        f"(default {DEFAULT_SCALES})",
    )
    run.add_argument(
        "--prompts",
        type=Path,
        help="one per line (default prompts/scenes100.txt for stand-ins, whose language it is, "
        "else prompts/coco100.txt)",
    )
    run.add_argument(
        "--seeds", default="0-4", help="images per prompt, such as 0-4 or 0,3,7 (default 0-4)"
    )
    run.add_argument("--nfe", type=int, default=20, help="evaluations per image (default 20)")
    run.add_argument("--out", type=Path, required=True, help="run folder, new or to be resumed")
    run.add_argument("--limit", type=int, metavar="K", help="only the first K prompts")
    run.add_argument("--batch", type=int, help="images at once (default 50 on stand-ins, else 8)")
    run.add_argument("--grid", help="one grid of noise levels for all arms, such as karras")
    run.add_argument(
        "--approximate",
        action="append",
        default=[],
        metavar="SPEC",
        help="draw every arm with this approximation as well, as an arm of its own; may be "
        "repeated: propagate[keys=uniform:2], cache[keys=uniform:2,depth=1]~gate[after=0.6]",
    )
    add_place(run)
    text = "compile the UNet: minutes at the start, faster then, equal images to float tolerance"
    run.add_argument("--compile", action="store_true", help=text)
    run.add_argument(
        "--patience",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="that the first of several processes waits for another image (default 300)",
    )
    run.add_argument("--no-score", action="store_true", help="only draw")

    text = "score a run folder"
    score = add_command(commands, "score", text, EXAMPLES["score"], _score, [scoring])
    score.add_argument("folder", type=Path)
    score.add_argument("--device", help="where the scorers run (default: cuda, else cpu)")
    add_result_commands(commands, scoring)
    add_commands(commands)
    add_search(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code (0, 2 for unusable input, 130 when interrupted)."""
    args = build_parser().parse_args(argv)
    args.words = sys.argv[1:] if argv is None else argv
    try:
        args.action(args)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumes = "; the same command resumes" if args.command in RESUMABLE else ""
        print(f"interrupted{resumes}", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    seeds, scales = parse_seeds(args.seeds), parse_scales(args.scales)
    from eval import models
    from eval.run import Request, run

    standin = models.find(args.model).standin
    usual = "scenes100" if standin else "coco100"
    request = Request(
        model=args.model,
        arms=with_approximations(args.arms, args.approximate),
        scales=tuple(scales),
        prompts=args.prompts or Path(f"prompts/{usual}.txt"),
        seeds=tuple(seeds),
        out=args.out,
        nfe=args.nfe,
        batch=args.batch,
        limit=args.limit,
        device=args.device,
        dtype=args.dtype,
        grid=args.grid,
        compile=args.compile,
        patience=args.patience,
    )
    if not args.no_score:
        _check_scoring(args, standin)
    outcome = run(request)
    for note in outcome.notes:
        print(note, file=sys.stderr)
    folder = shlex.quote(str(outcome.folder))
    if outcome.missing:
        raise ValueError(
            f"other processes of this launch stopped before their part of {outcome.folder} was "
            f"drawn ({'; '.join(outcome.missing)}); complete it with: python -m eval "
            f"{shlex.join(args.words)}"
        )
    if outcome.rank:
        print(
            f"process {outcome.rank}: {outcome.drawn} images drawn, {outcome.kept} were there",
            file=sys.stderr,
        )
        return
    if outcome.invalid:
        print(
            f"{len(outcome.invalid)} arms have invalid images, listed in {folder}/invalid/:",
            *(f"  {line}" for line in outcome.invalid),
            sep="\n",
            file=sys.stderr,
        )
    if not args.json:
        print(f"{outcome.drawn} images drawn, {outcome.kept} were there: {folder}/images")
    if not args.no_score:
        args.folder = outcome.folder
        try:
            _score(args)
        except ValueError as error:
            again = f"python -m eval score {folder}"
            raise ValueError(f"{error}; the images are kept: go on with {again}") from None
        from eval.report import report

        print(f"report: {report(outcome.folder)}", file=sys.stderr if args.json else sys.stdout)
    elif args.json:
        print(
            json.dumps(
                {
                    "folder": str(outcome.folder),
                    "drawn": outcome.drawn,
                    "kept": outcome.kept,
                    "invalid": outcome.invalid,
                }
            )
        )
    else:
        print(f"next: python -m eval score {folder} && python -m eval report {folder}")


def _check_scoring(args: argparse.Namespace, standin: bool) -> None:
    """Raise ValueError for what scoring would refuse or lack, before hours of drawing.

    For a real model its networks are loaded once, and so downloaded where they are not here yet.
    """
    if args.bootstrap < 1:
        raise ValueError(f"--bootstrap {args.bootstrap}: must be at least 1; leave it out for 2000")
    if args.reference is not None:
        from eval.reference import check

        check(args.reference)
    for spec in (args.scorer, args.second_scorer):
        if spec is not None:
            from eval.scorers import check_scorer

            check_scorer(spec)
    if standin or shard().rank:  # a stand-in's are here; process 0 scores
        return
    from eval.judge import networks

    # a GPU's memory is for the images now
    networks(standin, args.scorer, args.reference, args.second_scorer, "cpu")


def _score(args: argparse.Namespace) -> None:
    from eval.score import score

    options = args.scorer, args.reference, args.bootstrap, args.second_scorer, args.device
    if not args.json:
        score(args.folder, *options)
        return
    with contextlib.redirect_stdout(sys.stderr):  # its tables; stdout holds the JSON alone
        results = score(args.folder, *options)
    print(json.dumps(results))


if __name__ == "__main__":
    sys.exit(main())
