"""Print one row per arm from a results.json: the table of the README.

python -m eval.summary docs/results/standin-sd15/results.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from eval.tables import markdown, tally


def summary(results: dict) -> str:
    """Return a markdown table: each arm's best FID, CLIP and captions right over its strengths,
    and what the focus arm is against it at matched guidance. Arms without FID are left out."""
    focus = results["focus"]
    header = ["sampler", "lowest FID", "highest CLIP", "most captions right"]
    header += [f"`{focus}` against it: FID at equal CLIP", "CLIP at equal FID"]
    cells = [cell for cell in results["cells"].values() if cell["fid"] is not None]
    rows = []
    for arm in dict.fromkeys(cell["arm"] for cell in cells):
        own = [cell for cell in cells if cell["arm"] == arm]
        fid = min(own, key=lambda c: c["fid"])
        clip = max(own, key=lambda c: c["clip"])
        right = max(own, key=lambda c: c["all_right"] or 0)
        row = [
            f"`{arm}`",
            f"{fid['fid']:.2f} (ω {fid['omega']:g})",
            f"{clip['clip']:.2f} ± {clip['clip_half_interval']:.2f} (ω {clip['omega']:g})",
            f"{100 * (right['all_right'] or 0):.1f} % (ω {right['omega']:g})",
        ]
        if arm == focus:
            rows.append([f"**{row[0]}**", *row[1:], "–", "–"])
        else:
            rows.append([*row, tally(results, "clip", arm), tally(results, "fid", arm)])
    return markdown(header, rows)


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    print(summary(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
