"""Measure samplers: draw prompts x seeds with every arm, score the pictures, report.

Each arm is one sampler at one guidance strength. A run lives in one folder, described by its
`config.json`; sampling (`eval.run`) writes pictures, scoring (`eval.score`) reads only the folder.
"""
