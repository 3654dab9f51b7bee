"""By what a run is scored: numbers may stand in one table only where these are the same."""

from __future__ import annotations

from collections.abc import Mapping

from eval import reference as references
from eval.extractor import Extractor, extractor_for

ELSEWHERE = "PATH/TO/"  # in a printed command, before a name whose place a run does not keep
# What the labels of rendered references end in.
RENDERED = {
    "clean renders of other captions' scenes": references.CAPTIONS,
    "clean renders of the stand-in domain": references.DOMAIN,
}


def judge_of(results: Mapping) -> dict[str, str | None]:
    """Return by what results were scored: scorer, scorer_identity and the label of the reference.

    The features that FID compares follow from these and the model's kind.
    """
    told = {name: results[name] for name in ("scorer", "scorer_identity")}
    return told | {"reference": results["fid"]["reference"]}


def networks(
    standin: bool,
    scorer: str | None,
    reference: str | None,
    second_scorer: str | None,
    device: str | None = None,
) -> tuple[Extractor, dict[str, str]]:
    """Load what scoring with these options needs; ValueError where FID was asked for in vain."""
    wants_fid = standin or reference is not None
    extractor, problems = extractor_for(scorer, standin, wants_fid, second_scorer, device)
    if reference is not None and "fid" in problems:
        raise ValueError(f"--reference is given, and FID cannot be had: {problems['fid']}")
    return extractor, problems


def judge_for(
    config: dict, scorer: str | None, reference: str | None, second_scorer: str | None
) -> dict[str, str | None]:
    """Return by what `eval.score.score` would score a run with these options.

    Loads the networks and the reference, so that ValueError, in one line, comes before hours of
    drawing for what scoring could not use.
    """
    standin = config["standin"]
    extractor, problems = networks(standin, scorer, reference, second_scorer)
    found = None
    if (standin or reference is not None) and "fid" not in problems:
        found = references.load(reference, extractor, tuple(config["size"]), standin)
    return {
        "scorer": extractor.scorer.name,
        "scorer_identity": extractor.scorer.identity,
        "reference": found.label if found else None,
    }


def differing(before: Mapping, now: Mapping) -> str:
    """Say in what two judges differ; "" where they are the same."""
    return "; ".join(f"{n} {before[n]!r}, now {now[n]!r}" for n in now if before[n] != now[n])


def rendered_kind(results: Mapping) -> str | None:
    """Return the `--reference` of results that were compared with renders, else None.

    Only these can be told from a label: any other may be a file or folder anywhere.
    """
    label = results["fid"]["reference"] or ""
    return next((kind for end, kind in RENDERED.items() if label.endswith(end)), None)


def spelled(options: Mapping[str, str]) -> list[str]:
    """Return scoring options as results keep them as words of a command.

    Names of hubs have a slash; of local files and folders only the name is kept.
    """
    words = []
    for name, value in options.items():
        known = "/" in value or value in RENDERED.values()
        words += [f"--{name}", value if known else ELSEWHERE + value]
    return words
