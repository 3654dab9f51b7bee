"""What true pictures of held-out captions score, by either reference of the stand-ins.

    python -m benchmarks.true_pictures --limit 1500

A reference that shows what the captions ask for gives their true pictures a low FID, which no
sampler can be far below. The scenes of prompts/scenes8000.txt are chosen again by the rule that
wrote the file (a minute for 1,500) and must have its captions.
"""

from __future__ import annotations

import argparse

import numpy as np

from eval import reference
from eval.commands import Parser, natural, one_line_errors
from eval.extractor import extractor_for
from eval.metrics import Statistics, frechet
from standins.make_prompts import FILES, FOLDER, captions_of, choose
from standins.scenes import sample

NAME = "scenes8000.txt"
AT_ONCE = 250


@one_line_errors()
def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=natural, default=1500, help="captions, a multiple of 20")
    limit = parser.parse_args().limit
    lines, start = FILES[NAME]
    if limit % 20 or limit > lines:
        raise ValueError(f"--limit {limit}: give a multiple of 20, at most {lines}")
    written = {name: (FOLDER / name).read_text(encoding="utf-8").splitlines() for name in FILES}
    expected = written.pop(NAME)[:limit]
    chosen = choose(limit, start, captions_of(written))
    if chosen.captions != expected:
        raise ValueError(f"{NAME} is not what its rule writes; run python -m standins.make_prompts")
    judge, _ = extractor_for(None, standin=True, fid=True)
    parts = []
    for first in range(0, limit, AT_ONCE):
        drawn = chosen.scenes[first : first + AT_ONCE]
        pixels = [sample("prompts", i, count=n, held_out=None)[1] for n, i in drawn]
        parts.append(judge.fid_features(np.stack(pixels)))
    true = Statistics.of(np.concatenate(parts))
    for kind in (reference.CAPTIONS, reference.DOMAIN):
        found = reference.rendered(judge, kind)
        print(f"{kind}: FID {frechet(true, found.statistics):.2f} ({found.label})", flush=True)


if __name__ == "__main__":
    main()
