"""Say what the committed results show about the focus arm, and what they do not.

The claim is made once, on held-out prompts, from the results.json files of finished runs: nothing
is drawn or scored again. Its numbers are the headline comparisons of `eval.front`: the mean
difference of two fronts, with a 95 % interval and Holm's verdict over the arms of one run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.pick import damaged
from eval.tables import MISSING, difference_text, markdown

WORDS = ("better", "not distinguishable", "worse", "out of range", "no FID", "invalid")
MEASURES = {"clip": "FID at equal CLIP", "fid": "CLIP at equal FID"}
SIGN = {"clip": -1, "fid": 1}  # of a good difference: a lower FID, a higher CLIP


def read(paths: Sequence[Path]) -> dict[str, dict]:
    """Return results by model and NFE; ValueError, in one line, for what cannot be compared."""
    runs: dict[str, dict] = {}
    for path in paths:
        path = path / "results.json" if path.is_dir() else path
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path} is not there; give results.json of a scored run") from None
        except json.JSONDecodeError:
            results = None
        if not isinstance(results, dict) or not {"front", "model", "cells"} <= results.keys():
            raise ValueError(
                f"{path} holds no comparison of fronts; score its run with 'python -m eval score'"
            )
        name = f"{results['model']}, NFE {results['nfe']}"
        if name in runs:
            raise ValueError(f"{path} is a second run of {name}; give one of them")
        runs[name] = results
    return runs


def counts(results: Mapping) -> dict[str, Counter]:
    """Return how many arms get which word, by what is held equal."""
    return {
        at: Counter(found["verdict"] for found in results["front"][at].values()) for at in MEASURES
    }


def sentence(results: Mapping) -> str:
    """Say the claim of one run in a sentence that holds its losses, too."""
    parts = []
    for at, measure in MEASURES.items():
        found = counts(results)[at]
        said = ", ".join(f"{word} for {found[word]}" for word in WORDS if found[word])
        parts.append(f"{measure}: {said}")
    arms = len(results["front"]["clip"])
    size = f"{results['prompt_count']} prompts × {len(results['seeds'])} seeds"
    head = f"{results['stamp']}. `{results['focus']}` at NFE {results['nfe']} against {arms} arms"
    return f"{head} ({size}): {'; '.join(parts)}. {_at_once(results)}"


def beaten_at_once(results: Mapping) -> tuple[float | None, list[str]]:
    """Return the strength ω at which the focus arm has, against the most arms, both a lower FID
    than the arm's lowest and a higher CLIP than its highest, and these arms; None for no strength.

    As measured, without intervals. Arms with an invalid cell, and approximated ones, are left out.
    """
    cells = results["cells"].values()
    bad = damaged(results)

    def points(arm: str) -> list[tuple[float, float, float]]:
        own = [c for c in cells if c["arm"] == arm and c["fid"] is not None]
        return [] if arm in bad else [(c["omega"], c["fid"], c["clip"]) for c in own]

    best = {
        arm: (min(fid for _, fid, _ in own), max(clip for _, _, clip in own))
        for arm in results["front"]["clip"]
        if (own := points(arm))
    }
    found = {
        omega: [arm for arm, (lowest, highest) in best.items() if fid < lowest and clip > highest]
        for omega, fid, clip in points(results["focus"])
    }
    omega = max(found, key=lambda w: len(found[w]), default=None)
    return (omega, found[omega]) if omega is not None and found[omega] else (None, [])


def _at_once(results: Mapping) -> str:
    """Say whether one strength beats both bests of an arm."""
    if all(cell["fid"] is None for cell in results["cells"].values()):
        return "Without a reference for FID there are no fronts to compare."
    omega, arms = beaten_at_once(results)
    both = "both a lower FID than the lowest and a higher CLIP than the highest"
    if omega is None:
        return f"At no one strength has it {both} of an arm."
    return f"At ω = {omega:g} it has, as measured, {both} of {len(arms)}: {', '.join(arms)}."


def arms_of(runs: Mapping[str, dict]) -> list[str]:
    """Return the arms that the focus arm is compared with in any run; ValueError for none."""
    arms = list(dict.fromkeys(arm for r in runs.values() for arm in r["front"]["clip"]))
    if not arms:
        raise ValueError(f"{', '.join(runs)}: one arm alone; there is nothing to compare it with")
    return arms


def heads(runs: Mapping[str, dict]) -> dict[str, str]:
    """Return what each run is called in a table: its focus arm is named where runs differ in it."""
    several = len({results["focus"] for results in runs.values()}) > 1
    return {n: f"{n}, `{r['focus']}`" if several else n for n, r in runs.items()}


def table(runs: Mapping[str, dict]) -> str:
    """Return one row per arm: focus − arm over the common front, both ways, for every run."""
    named = heads(runs).values()
    header = ["against", *(f"{name}: Δ{m}" for name in named for m in MEASURES.values())]
    rows = [
        [f"`{arm}`"]
        + [
            difference_text(results["front"][at][arm]) if arm in results["front"][at] else MISSING
            for results in runs.values()
            for at in MEASURES
        ]
        for arm in arms_of(runs)
    ]
    return markdown(header, rows)


def leaning(found: Mapping, at: str) -> int:
    """Return 1 where a comparison's interval is on the good side of 0, −1 on the bad, else 0."""
    low, high = found.get("interval", (0, 0))
    return 0 if low <= 0 <= high else 1 if SIGN[at] * low > 0 else -1


def overview(runs: Mapping[str, dict], rival: str = "dpm3m_sde") -> str:
    """Return one row per run, by model and NFE: the number of arms that the focus arm is better
    and worse than by Holm's verdict, + those more where the interval alone excludes 0; and what it
    is against the rival, if any run has it."""
    header = [
        "run",
        "prompts",
        "arms",
        *(f"{m}: better / worse (+ by the interval alone)" for m in MEASURES.values()),
    ]
    met = any(rival in results["front"]["clip"] for results in runs.values())
    header += [f"against `{rival}`: Δ{m}" for m in MEASURES.values()] if met else []
    rows, named = [], heads(runs)
    for name, results in sorted(runs.items(), key=lambda run: (run[1]["model"], run[1]["nfe"])):
        fronts = {at: results["front"][at] for at in MEASURES}
        row = [named[name], f"{results['prompt_count']:,}", str(len(fronts["clip"]))]
        for at, front in fronts.items():
            words = Counter(found["verdict"] for found in front.values())
            leans = Counter(leaning(f, at) for f in front.values() if f["verdict"] == WORDS[1])
            better, worse = (f"{words[w]} + {leans[s]}" for w, s in (("better", 1), ("worse", -1)))
            row.append(f"{better} / {worse}")
        if met:
            row += [difference_text(f[rival]) if rival in f else MISSING for f in fronts.values()]
        rows.append(row)
    return markdown(header, rows)


def claim(runs: Mapping[str, dict]) -> str:
    """Return the table and one sentence per run."""
    said = [f"- {sentence(results)}" for results in runs.values()]
    return "\n".join([table(runs), "", *said])
