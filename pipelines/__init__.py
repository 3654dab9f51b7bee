"""Stable Diffusion and SDXL: loaded behind CFGpp's vocabulary, and as diffusers runs them."""
