#!/usr/bin/env bash
# Sample, score and report with the trained stand-in model: no GPU, no model downloads.
#
#     bash run_demo.sh                    # 20 prompts × 2 seeds × all arms at NFE 20
#     OUT=runs/mine SCALES=3,5 bash run_demo.sh
#
# The scores are the stand-in's (64×64 scenes of coloured shapes), not Stable Diffusion's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/env.sh eval

export HF_HUB_OFFLINE=1 # everything needed is in the repository
OUT=${OUT:-runs/demo}
"$PYTHON" -m eval run --model standin-sd15 --prompts prompts/scenes100.txt --limit 20 \
    --seeds 0-1 --nfe 20 --scales "${SCALES:-2,4,7.5}" --out "$OUT"

printf '\nreport  %s\ngrid    %s\n' "$OUT/report.html" "$OUT/figures/grid.png"
