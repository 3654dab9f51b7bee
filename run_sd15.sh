#!/usr/bin/env bash
# Compare all arms on Stable Diffusion 1.5: 100 prompts × SEEDS at NFE 20, CLIP score and FID.
#
#     bash run_sd15.sh
#     MODEL=/path/to/sd15 FID_REFERENCE=/path/to/coco SEEDS=10 bash run_sd15.sh
#
# Images of 512×512.
# Settings (MODEL, SEEDS, SCALES, BATCH, FID_REFERENCE, OUT): see scripts/run_benchmark.sh.
# Needs a CUDA device and the weights; exits with 3 and says so when either is missing.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/scripts/run_benchmark.sh" run_sd15.sh sd15
