#!/usr/bin/env bash
# Compare all arms on Stable Diffusion 2.0: 100 prompts × SEEDS at NFE 20, CLIP score and FID.
#
#     bash run_sd20.sh
#     MODEL=/path/to/sd20 FID_REFERENCE=/path/to/coco SEEDS=10 bash run_sd20.sh
#
# The v-prediction model, images of 768×768; MODEL=sd20-base is the ε-prediction one at 512×512.
# Settings (MODEL, SEEDS, SCALES, BATCH, FID_REFERENCE, OUT): see scripts/run_benchmark.sh.
# Needs a CUDA device and the weights; exits with 3 and says so when either is missing.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/scripts/run_benchmark.sh" run_sd20.sh sd20
