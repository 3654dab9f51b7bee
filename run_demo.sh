#!/usr/bin/env bash
# Sample, score and report with the trained stand-in model: no GPU, no model downloads.
#
#     bash run_demo.sh                    # 40 prompts × all arms × 3 strengths at NFE 20
#     OUT=runs/mine SCALES=3,5 bash run_demo.sh
#
# The scores are the stand-in's (64×64 scenes of coloured shapes), not Stable Diffusion's.
set -euo pipefail
OUT=${OUT:+$(realpath -m "$OUT")} # a relative one is of where the script was started
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/env.sh eval

export HF_HUB_OFFLINE=1 # everything needed is in the repository
OUT=${OUT:-runs/demo}
"$PYTHON" -m eval run --model standin-sd15 --prompts prompts/scenes100.txt --limit 40 \
    --seeds 0 --nfe 20 --scales "${SCALES:-1.5,2.5,4}" --out "$OUT"

printf '\nreport  %s\ngrid    %s\n' "$OUT/report.html" "$OUT/figures/grid.png"
