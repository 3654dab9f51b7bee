#!/usr/bin/env bash
# Compare all arms on SDXL 1.0: 100 prompts × SEEDS at NFE 20, CLIP score and FID.
#
#     bash run_sdxl.sh
#     MODEL=/path/to/sdxl FID_REFERENCE=/path/to/coco SEEDS=10 bash run_sdxl.sh
#
# Images of 1024×1024; a small GPU may need BATCH=2.
# Settings (MODEL, SEEDS, SCALES, BATCH, FID_REFERENCE, OUT): see scripts/run_benchmark.sh.
# Needs a CUDA device and the weights; exits with 3 and says so when either is missing.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/scripts/run_benchmark.sh" run_sdxl.sh sdxl
