"""Draw and score a run's arms at several numbers of evaluations: `python -m eval curve`.

Every NFE is a run folder of its own, RUN/curve/nfe05 and so on, with the settings of RUN: the same
prompts, seeds, noise, model and precision, so all points have the same number of images. Started
again it resumes, and new NFEs join those that are there. All points, and the run where it is
scored, are scored by one scorer against one reference.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eval import models
from eval.arms import parse_arms
from eval.curve_checks import model_of, same_judge, same_model, same_settings, scored_points
from eval.drawers import drawer
from eval.folder import read_json, write_json
from eval.images import write_atomic
from eval.judge import differing, judge_for, judge_of, rendered_kind, spelled
from eval.pick import load_scored
from eval.run import Request, run
from eval.score import BOOTSTRAP, read_config, score, stamp
from eval.shards import shard
from eval.tables import digits_for, markdown, number, to_csv
from samplers.errors import finite

COLUMNS = (
    *("nfe", "arm", "omega", "scale", "guidance", "n", "invalid", "valid", "clip"),
    *("clip_half_interval", "fid", "fid_floor", "kid", "all_right", "pairs_right"),
)


def curve(
    folder: Path,
    nfes: Sequence[int],
    omega: float | None = None,
    arms: str | None = None,
    seeds: Sequence[int] | None = None,
    *,
    model: str | None = None,
    device: str | None = None,
    scorer: str | None = None,
    reference: str | None = None,
    bootstrap: int = BOOTSTRAP,
    second_scorer: str | None = None,
    load: Callable[..., models.Sampler] = models.load,
) -> dict:
    """Draw and score what is missing, write curve.json and curve.csv, and return the former.

    nfes       network evaluations per image, each at least 1
    omega      strength in CFG units, the same for all arms; default: the middle one of the run
    arms       samplers without strengths, comma-separated; default: those of the run
    seeds      default: those of the run
    model      where the run's model is; needed when it was a folder of no known name
    reference  as for `score`; default: the renders that the run was compared with, if it was
    Raises ValueError, in one line, for what the caller can mend: before anything is drawn where the
    run, or a point that is not scored again, was scored by another scorer or reference. An arm that
    cannot spend an NFE exactly is left out there and named in `skipped`.
    """
    if shard().world > 1:
        raise ValueError("a curve is drawn by one process; start it without accelerate launch")
    folder = Path(folder)
    config = read_config(folder)
    scored = None
    if (folder / "results.json").is_file():
        # The report will need it: what it lacks is told before drawing.
        scored = load_scored(folder, config)
        reference = rendered_kind(scored) if reference is None else reference
    if omega is None:
        known = sorted({entry["omega"] for entry in config["arms"]})
        omega = known[len(known) // 2]
    from samplers import available

    guidance = {recipe.name: recipe.guidance for recipe in available()}
    labels, regions = _labels(config, arms, omega, guidance)
    seeds = list(seeds or config["seeds"])
    home = folder / "curve"
    finite("omega", omega)
    settings = {"omega": omega, "seeds": seeds, "arms": labels}
    same_settings(home, settings)
    model = model or model_of(config)
    source = models.find(model)
    place = models.choose_device(device)
    network = load(source, max(nfes), place, config["dtype"])
    same_model(config, source, network)
    skipped = [
        {"arm": arm, "nfe": None, "reason": "a region's file is not known"} for arm in regions
    ]
    fitting: dict[int, list[str]] = {}
    for nfe in sorted(set(nfes)):
        for label in labels:
            (arm,) = parse_arms(f"{label}@w{omega:g}", (), guidance)
            try:
                drawer(arm, network, nfe, config["grid"])
                fitting.setdefault(nfe, []).append(arm.key)
            except ValueError as error:
                skipped.append({"arm": label, "nfe": nfe, "reason": str(error)})
    if not fitting:
        reasons = dict.fromkeys(entry["reason"] for entry in skipped)
        raise ValueError(
            f"no arm can be drawn at {', '.join(map(str, nfes))}: {'; '.join(reasons)}"
        )
    judge = judge_for(config, scorer, reference, second_scorer)
    same_judge(folder, scored, judge, fitting)
    prompts = home / "prompts.txt"
    write_atomic(prompts, "".join(f"{p}\n" for p in config["prompts"]).encode())
    write_json(home / "settings.json", settings)
    for nfe, keys in fitting.items():
        out = home / f"nfe{nfe:02d}"
        run(
            Request(
                model=model,
                arms=",".join(keys),
                scales=(),
                prompts=prompts,
                seeds=tuple(seeds),
                out=out,
                nfe=nfe,
                batch=config["batch"],
                device=place,
                dtype=config["dtype"],
                grid=config["grid"],
                compile=config.get("compiled", False),
            ),
            load=lambda *_, **__: network,  # plans carry their own NFE
        )
        with contextlib.redirect_stdout(io.StringIO()):  # its tables; ours sums them up
            score(out, scorer, reference, bootstrap, second_scorer, device)
        print(f"NFE {nfe}: {len(keys)} arms drawn and scored", file=sys.stderr)
    return _collect(folder, config, settings, nfes, skipped)


def parse_nfes(text: str) -> list[int]:
    """Read numbers of evaluations such as `5,8,10`; ValueError for anything else."""
    found = [int(part) if part.strip().isdigit() else 0 for part in text.split(",")]
    if min(found) < 1:
        raise ValueError(f"nfes {text!r}: give whole numbers of at least 1, such as 5,10,20")
    return found


def text(found: dict) -> str:
    """Return a curve as a markdown table, one row per arm and NFE, under its stamp."""
    digits = digits_for(point["fid"] for point in found["points"])
    rows = []
    for point in found["points"]:
        half = point["clip_half_interval"]
        clip = number(point["clip"]) + (f" ± {half:.2f}" if half is not None else "")
        right = None if point["all_right"] is None else 100 * point["all_right"]
        fid = number(point["fid"], digits)
        rows.append([point["arm"], str(point["nfe"]), clip, fid, number(right, 1)])
        rows[-1].append(
            f"{point['n']}" + (f" + {point['invalid']} invalid" if point["invalid"] else "")
        )
    rows.sort(key=lambda row: found["arms"].index(row[0]))
    judge = f"CLIP: {found['scorer']}; FID reference: {found['reference'] or 'none'}"
    lines = [f"{found['stamp']}; ω = {found['omega']:g}. {judge}", ""]
    lines.append(markdown(["arm", "NFE", "CLIP ↑", "FID ↓", "all right %", "n"], rows))
    for entry in found["skipped"]:
        place = f" at NFE {entry['nfe']}" if entry["nfe"] else ""
        lines.append(f"left out: {entry['arm']}{place}: {entry['reason']}")
    return "\n".join(lines)


def read_curve(folder: Path) -> dict | None:
    """Return what `curve` wrote, or None when the run has no curve.

    Raises ValueError where the run was since scored by another scorer or reference. Curves of
    earlier versions do not tell theirs.
    """
    found, scored = (read_json(Path(folder) / name) for name in ("curve.json", "results.json"))
    if scored and "reference" in found and (changed := differing(found, judge_of(scored))):
        nfes = ",".join(map(str, found["nfes"]))
        raise ValueError(
            f"{folder}: its curve was scored otherwise than the run ({changed}); score it again "
            f"with 'python -m eval curve {shlex.quote(str(folder))} --nfes {nfes}' and the run's "
            "--scorer and --reference, or delete curve.json"
        )
    return found or None


def shell_command(found: dict, folder: str) -> str:
    """Return the command that draws a curve again."""
    words = ["python", "-m", "eval", "curve", folder, "--nfes", ",".join(map(str, found["nfes"]))]
    words += ["--omega", f"{found['omega']:g}", "--arms", ",".join(found["arms"])]
    words += ["--seeds", ",".join(map(str, found["seeds"]))]
    return shlex.join([*words, *spelled(found.get("options", {}))])


def _labels(
    config: dict, arms: str | None, omega: float, guidance: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Return the arms to draw without their strengths, and the regions, which cannot be."""
    if arms is not None:
        if "@" in arms or "region:" in arms:
            raise ValueError(
                f"arms {arms!r}: a curve takes samplers without @ (their strength is --omega) "
                "and no regions; write for example ddim,exp2m_cfg++"
            )
        return [arm.label for arm in parse_arms(arms, (omega,), guidance)], []
    own = {entry["arm"]: entry["sampler"] == "region" for entry in config["arms"]}
    return [a for a, is_region in own.items() if not is_region], [a for a in own if own[a]]


def _collect(
    folder: Path, config: dict, settings: dict, nfes: Sequence[int], skipped: list[dict]
) -> dict:
    """Gather the points of all scored NFEs, and write curve.json and curve.csv."""
    points, scored = [], [read_json(path) for path in scored_points(folder)]
    order = {arm: place for place, arm in enumerate(settings["arms"])}
    for results in scored:
        for cell in sorted(results["cells"].values(), key=lambda c: order[c["arm"]]):
            shown = {name: value for name, value in cell.items() if name != "invalid_files"}
            points.append({"nfe": results["nfe"], **shown})
    points.sort(key=lambda point: point["nfe"])  # stable: arms stay in their order
    before = read_json(folder / "curve.json").get("skipped", [])
    skipped = [e for e in before if e["nfe"] not in (None, *nfes)] + skipped
    found = {
        "stamp": stamp(config),
        **judge_of(scored[0]),  # that of all points, by `same_judge`
        "options": scored[0].get("options", {}),
        **settings,
        "prompt_count": len(config["prompts"]),
        "nfes": sorted({point["nfe"] for point in points}),
        "points": points,
        "skipped": skipped,
    }
    write_json(folder / "curve.json", found)
    rows = [[point.get(name) for name in COLUMNS] for point in points]
    write_atomic(folder / "curve.csv", to_csv(list(COLUMNS), rows).encode())
    return found
