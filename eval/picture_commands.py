"""The subcommands around single pictures and model files: generate, invert, edit, info, prefetch.

Heavy imports stand in the actions, so that every `--help` is quick.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from eval.commands import add_command, add_place
from eval.prompts import parse_seeds, read_prompts

MODEL_HELP = (
    "standin-sd15, standin-sd20 or standin-sdxl (with -web for the one that wants strong "
    "guidance), sd15, sd20, sd20-base, sd21, sd21-base, sdxl, a folder in the diffusers format or "
    "a hub id"
)
GENERATE = """
  python -m eval generate --model standin-sd15 --prompt "a large red circle" --out circle.png
  # one method at 20 evaluations, lambda 0.6, on Stable Diffusion 1.5
  python -m eval generate --model sd15 --method exp2m_cfg++ --prompt "a red fox in the snow" \\
      --cfg_guidance 0.6 --NFE 20 --seed 42 --out fox.png
  # two prompts x four seeds into a folder, with a contact sheet; noise added on the way
  python -m eval generate --prompt "a blue star" --prompt "a green square" --seed 42-45 \\
      --option eta=0.5 --out pictures"""
INVERT = """
  python -m eval invert --model standin-sd15 --image in.png --prompt "a large red circle" \\
      --method ddim_inversion_cfg++ --cfg_guidance 0.6 --NFE 50 --out again.png"""
EDIT = """
  python -m eval edit --model standin-sd15 --image in.png --source "a large red circle" \\
      --target "a large blue circle" --method coupled_edit_cfg++ --out blue.png
  # the original's rule: inverted under one prompt, sampled under the other
  python -m eval edit --image in.png --source "a large red circle" --target "a large blue circle" \\
      --method ddim_edit_cfg++ --cfg_guidance 0.2 --out blue.png"""
INFO = """
  python -m eval info fox.png
  python -m eval info fox.png --json"""
PREFETCH = """
  # what would be downloaded, and how much
  python -m eval prefetch --model sdxl --scorers --dry-run
  # everything that bash run_sd15.sh needs; then HF_HUB_OFFLINE=1 works
  python -m eval prefetch --model sd15 --scorers"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the parsers of this file's subcommands."""
    draw = add_command(commands, "generate", "draw prompts with one sampler", GENERATE, _generate)
    _add_drawing(draw, nfe=20, strengths="7.5 and 0.6")
    draw.add_argument(
        "--method",
        default="exp2m_cfg++",
        help="a name that `python -m samplers` lists, options in brackets allowed, or a solver of "
        "the model's get_solver (default exp2m_cfg++)",
    )
    draw.add_argument("--prompt", action="append", default=[], help="may be repeated")
    draw.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt per line")
    draw.add_argument("--omega", type=float, help="strength in CFG units, for any method")
    draw.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="eta=0.5")
    draw.add_argument("--grid", help="noise levels, such as karras (default: the method's own)")
    draw.add_argument(
        "--approximate", metavar="SPEC", help="nearly the same images, faster; as for run"
    )
    draw.add_argument(
        "--seed",
        "--seeds",
        dest="seeds",
        default="42",
        help="42, 42-45 or 1,5; a picture of a run: the number `noise` in its PNG",
    )
    draw.add_argument("--batch", type=int, help="images at once (default 50 on stand-ins, else 8)")
    draw.add_argument("--checkpoint", type=Path, help="distilled UNet, for ..._lightning methods")

    text = "run an image to noise and back, and tell what is lost"
    invert = add_command(commands, "invert", text, INVERT, _transform)
    invert.add_argument("--prompt", required=True, help="what the image shows")
    _add_transform(invert, "ddim_inversion_cfg++", "7.5 and 0.6", "ddim_inversion")
    edit = add_command(commands, "edit", "change an image by a change of words", EDIT, _transform)
    edit.add_argument("--source", required=True, help="what the image shows")
    edit.add_argument("--target", required=True, help="what it shall show")
    others = (
        "ddim_edit, coupled_edit, coupled_edit_cfg++ (these two keep what the words leave alone)"
    )
    _add_transform(edit, "ddim_edit_cfg++", "2 and 0.2; coupled 5 and 0.4", others)

    info = add_command(commands, "info", "print how a PNG was made", INFO, _info)
    info.add_argument("image", type=Path)
    info.add_argument("--json", action="store_true", help="all text chunks as one JSON object")

    text = "download what a run needs, and say how much that is"
    prefetch = add_command(commands, "prefetch", text, PREFETCH, _prefetch)
    prefetch.add_argument("--model", required=True, help=MODEL_HELP)
    prefetch.add_argument("--scorers", action="store_true", help="CLIP and InceptionV3, too")
    prefetch.add_argument("--dry-run", action="store_true", help="only list the sizes")
    prefetch.add_argument(
        "--dtype",
        default="float16",
        help="that it will run in: float16 (on CUDA devices, the default) or float32",
    )


def _add_drawing(command: argparse.ArgumentParser, nfe: int, strengths: str) -> None:
    command.add_argument(
        "--model", default="standin-sd15", help=f"{MODEL_HELP} (default standin-sd15)"
    )
    command.add_argument("--out", type=Path, required=True, help=".png file or folder")
    command.add_argument(
        "--cfg_guidance",
        "--cfg-guidance",
        type=float,
        help=f"CFG's omega, or CFG++'s lambda up to 2 (larger: read as omega); default {strengths}",
    )
    command.add_argument(
        "--null_prompt", "--null-prompt", default="", help='negative prompt (default "")'
    )
    command.add_argument(
        "--NFE", "--nfe", dest="nfe", type=int, default=nfe, help=f"evaluations (default {nfe})"
    )
    command.add_argument("--json", action="store_true", help="print what was written as JSON")
    add_place(command)


def _add_transform(
    command: argparse.ArgumentParser, method: str, strengths: str, others: str
) -> None:
    command.add_argument("--image", type=Path, required=True, help="PNG, JPEG or WebP file")
    command.add_argument("--method", default=method, help=f"default {method}; or {others}")
    command.add_argument("--seed", type=int, default=42, help="default 42")
    _add_drawing(command, nfe=50, strengths=strengths)


def _generate(args: argparse.Namespace) -> None:
    seeds = parse_seeds(args.seeds)
    prompts = [*args.prompt, *(read_prompts(args.prompts) if args.prompts else [])]
    if not prompts:
        raise ValueError("nothing to draw; give --prompt TEXT or --prompts FILE")
    if args.cfg_guidance is not None and args.omega is not None:
        raise ValueError("--cfg_guidance and --omega both state the strength; give one")
    from eval.generate import Request, generate

    drawing = generate(
        Request(
            model=args.model,
            method=args.method,
            prompts=tuple(prompts),
            seeds=tuple(seeds),
            out=args.out,
            null_prompt=args.null_prompt,
            cfg_guidance=args.cfg_guidance,
            omega=args.omega,
            nfe=args.nfe,
            options=tuple(args.option),
            grid=args.grid,
            approximate=args.approximate,
            batch=args.batch,
            checkpoint=args.checkpoint,
            device=args.device,
            dtype=args.dtype,
        )
    )
    for note in drawing.notes:
        print(note, file=sys.stderr)
    if args.json:
        sheet = str(drawing.sheet) if drawing.sheet else None
        print(json.dumps({"images": drawing.images, "sheet": sheet}, ensure_ascii=False))
        return
    for image in drawing.images:
        print(image["file"])
    if drawing.sheet:
        print(f"contact sheet: {drawing.sheet}")


def _transform(args: argparse.Namespace) -> None:
    from eval.transform import Request, transform

    texts = (args.prompt,) if args.command == "invert" else (args.source, args.target)
    result = transform(
        Request(
            command=args.command,
            model=args.model,
            method=args.method,
            image=args.image,
            texts=texts,
            out=args.out,
            null_prompt=args.null_prompt,
            cfg_guidance=args.cfg_guidance,
            nfe=args.nfe,
            seed=args.seed,
            device=args.device,
            dtype=args.dtype,
        )
    )
    for note in result.notes:
        print(note, file=sys.stderr)
    if args.json:
        print(json.dumps({"file": str(result.file), "psnr": result.psnr}))
    else:
        print(f"{result.file}: PSNR {result.psnr:.2f} dB against the given image")


def _info(args: argparse.Namespace) -> None:
    from eval.image_text import describe, read_chunks

    found = read_chunks(args.image)
    print(json.dumps(found, ensure_ascii=False) if args.json else describe(found))


def _prefetch(args: argparse.Namespace) -> None:
    from eval import hub, models
    from eval.prefetch import fetch, folder_bytes, missing_offline, needed, shown_bytes

    source = models.find(args.model)
    dtype = models.choose_dtype(args.dtype, source, "cpu")
    if Path(source.key).is_dir():
        size = shown_bytes(folder_bytes(Path(source.key)))
        print(f"{source.label}: nothing to download, {size} in {models.shown(source.key)}")
    again = f"python -m eval prefetch --model {shlex.quote(args.model)}"
    again += " --scorers" if args.scorers else ""
    again += f" --dtype {dtype}" if dtype != "float16" else ""
    if hub.offline():
        if missing := missing_offline(source, dtype, args.scorers):
            raise OSError(
                f"HF_HUB_OFFLINE is set and {', '.join(missing)} missing; "
                f"without it, on a connected machine, run: {again}"
            )
        print("all here; HF_HUB_OFFLINE=1 works")
        return
    parcels = needed(source, dtype, args.scorers)
    for parcel in parcels:
        print(parcel)
    if args.dry_run or not parcels:
        return
    for parcel in parcels:
        if not parcel.complete:
            fetch(parcel)
    after = needed(source, dtype, args.scorers)
    if left := [parcel.place for parcel in after if not parcel.complete]:
        raise OSError(f"still incomplete: {', '.join(left)}; run the same command again")
    total = sum(size for parcel in after for size in parcel.files.values())
    print(f"all here, {shown_bytes(total)}; HF_HUB_OFFLINE=1 works")
