#!/usr/bin/env bash
# Compare all arms on Stable Diffusion 1.5: 100 prompts × SEEDS at NFE 20, CLIP score and FID.
#
#     bash run_sd15.sh
#     MODEL=/path/to/sd15 FID_REFERENCE=/path/to/coco SEEDS=10 bash run_sd15.sh
#
#   MODEL          folder in diffusers format, or hub id   (default: SD 1.5 from the hub)
#   SEEDS          images per prompt, seeds 0 to SEEDS-1   (default: 5)
#   SCALES         guidance in CFG units, comma-separated  (default: 3,5,7.5,10)
#   FID_REFERENCE  folder of images, or .npz of statistics (default: none, FID reported missing)
#   OUT            where results go; a second start resumes (default: runs/sd15)
#
# Needs a CUDA device and the weights; exits with 3 and says so when either is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

SEEDS=${SEEDS:-5}
SCALES=${SCALES:-3,5,7.5,10}
OUT=${OUT:-runs/sd15}
MODEL=${MODEL:-sd15}
if [[ ! "$SEEDS" =~ ^[1-9][0-9]*$ ]]; then
    echo "SEEDS=$SEEDS: must be a whole number of at least 1; e.g. SEEDS=5" >&2
    exit 2
fi
reference=()
if [[ -n "${FID_REFERENCE:-}" ]]; then
    if [[ ! -e "$FID_REFERENCE" ]]; then
        echo "FID_REFERENCE=$FID_REFERENCE: no such folder or .npz file; leave it unset to skip FID" >&2
        exit 2
    fi
    reference=(--reference "$FID_REFERENCE")
fi

source scripts/env.sh eval
"$PYTHON" -m eval.preflight --model "$MODEL" --script run_sd15.sh

"$PYTHON" -m eval run --model "$MODEL" --prompts prompts/coco100.txt --seeds "0-$((SEEDS - 1))" \
    --nfe 20 --scales "$SCALES" --out "$OUT" "${reference[@]}"

printf '\nreport  %s\ngrid    %s\n' "$OUT/report.html" "$OUT/figures/grid.png"
