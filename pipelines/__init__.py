"""Loaded Stable Diffusion and SDXL pipelines behind CFGpp's vocabulary."""
