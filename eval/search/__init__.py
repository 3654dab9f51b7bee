"""Search a sampler's per-step decisions for one model and NFE; see docs/search.md."""
