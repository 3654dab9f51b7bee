#!/usr/bin/env bash
# Compare all arms on one model: 100 prompts × SEEDS at NFE 20, CLIP score and FID.
#
#     bash scripts/run_benchmark.sh SCRIPT NAME     # what run_NAME.sh calls
#
#   MODEL          folder in diffusers format, or hub id   (default: NAME's, from the hub)
#   SEEDS          images per prompt, seeds 0 to SEEDS-1   (default: 5)
#   SCALES         guidance in CFG units, comma-separated  (default: 3,5,7.5,10)
#   BATCH          images at once                          (default: 8)
#   FID_REFERENCE  folder of images, or .npz of statistics (default: none: no FID, and without it
#                  no comparison at matched guidance; python -m eval reference --coco val2017
#                  --size 512 --out coco.npz makes one, with --size 768 for SD 2.0, 1024 for SDXL)
#   OUT            where results go; a second start resumes (default: runs/NAME)
#
# Needs a CUDA device and the weights; exits with 3 and says so when either is missing.
set -euo pipefail
# Folders are the caller's own: relative ones are of where the script was started.
for name in MODEL FID_REFERENCE OUT; do
    if [[ -n "${!name:-}" && ( "$name" != MODEL || -d "${!name}" ) ]]; then
        printf -v "$name" '%s' "$(realpath -m "${!name}")"
    fi
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -ne 2 ]]; then
    echo "usage: bash scripts/run_benchmark.sh SCRIPT NAME; e.g. bash run_sd15.sh" >&2
    exit 2
fi
SCRIPT=$1
SEEDS=${SEEDS:-5}
SCALES=${SCALES:-3,5,7.5,10}
BATCH=${BATCH:-8}
OUT=${OUT:-runs/$2}
MODEL=${MODEL:-$2}
for name in SEEDS BATCH; do
    if [[ ! "${!name}" =~ ^[1-9][0-9]*$ ]]; then
        echo "$name=${!name}: must be a whole number of at least 1; e.g. $name=5" >&2
        exit 2
    fi
done
reference=()
if [[ -n "${FID_REFERENCE:-}" ]]; then
    if [[ ! -e "$FID_REFERENCE" ]]; then
        echo "FID_REFERENCE=$FID_REFERENCE: no such folder or .npz file; leave it unset to skip FID" >&2
        exit 2
    fi
    reference=(--reference "$FID_REFERENCE")
fi

source scripts/env.sh eval
"$PYTHON" -m eval.preflight --model "$MODEL" --script "$SCRIPT"
if [[ ${#reference[@]} -eq 0 ]]; then
    echo "FID_REFERENCE is not set: no FID, and arms are not compared at matched guidance" >&2
fi

"$PYTHON" -m eval run --model "$MODEL" --prompts prompts/coco100.txt --seeds "0-$((SEEDS - 1))" \
    --nfe 20 --scales "$SCALES" --batch "$BATCH" --out "$OUT" "${reference[@]}"

printf '\nreport  %s\ngrid    %s\n' "$OUT/report.html" "$OUT/figures/grid.png"
