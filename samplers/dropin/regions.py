"""The text of a benchmark region, class `BaseDDIMCFGpp` with its decorator, for CFGpp's two files.

Shared regions are this project's own class, between the markers of its model files, and import
`samplers`; inline ones stand alone (`samplers.dropin.inline`). Either runs any registered sampler.
"""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

from samplers.registry import Recipe, available, find

CLASS, DEFAULT = "BaseDDIMCFGpp", "exp2m_cfg++"
FILES = {"StableDiffusion": "latent_diffusion.py", "SDXL": "latent_sdxl.py"}  # by base class
OURS = Path(__file__).resolve().parents[2]
_MARKED = re.compile(r"^# >>> benchmark region\n(.*?)\n*^# <<< benchmark region", re.S | re.M)


def region_text(base: str, arm: str = DEFAULT, inline: bool = False, verify: bool = True) -> str:
    """Return the region of a base class, "StableDiffusion" or "SDXL", that runs `arm`.

    verify  compare an inline region with the plan before returning it
    Raises ValueError for an unknown arm, or when this project's own model file is not beside it.
    """
    recipe = find(arm)
    if recipe.inverts:
        raise ValueError(f"sampler {arm!r} is an inversion; a region draws images from noise")
    if inline:
        from samplers.dropin.inline import inline_region

        return inline_region(base, arm, verify)
    text = _own_region(base)
    return text if arm == DEFAULT else _with_arm(text, recipe)


def _own_region(base: str) -> str:
    path = OURS / FILES[base]
    found = _MARKED.search(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not found:
        raise ValueError(
            f"no {path.name} of this project beside samplers/; run this from a "
            "complete checkout or installation, or pass --inline"
        )
    return found[1].rstrip("\n") + "\n"


def _with_arm(text: str, recipe: Recipe) -> str:
    """Put another sampler into our class: the same text with another name and units."""
    changes = [
        (r'""".*?"""', f'"""{recipe.name} ({recipe.source}), a plan of the package `samplers`."""'),
        (re.escape(f'compile_plan("{DEFAULT}"'), f'compile_plan("{recipe.name}"'),
    ]
    if recipe.guidance == "cfg":
        changes += [
            (r"\*\*read_cfg_guidance\(cfg_guidance\)|read_cfg_guidance\(cfg_guidance\)", None),
            (r", read_cfg_guidance(?=, )", ""),
            (r"λ_cfg up to 2, above that ω in CFG units", "CFG's ω"),
        ]
    for pattern, new in changes:
        if new is None:  # as keyword arguments, or as the dictionary of them

            def scale(match: re.Match) -> str:
                keywords = match[0].startswith("**")
                return "scale=cfg_guidance" if keywords else '{"scale": cfg_guidance}'

            text, count = re.subn(pattern, scale, text, count=1)
        else:
            text, count = re.subn(pattern, lambda _, new=new: new, text, count=1, flags=re.S)
        assert count == 1, f"our own region has no {pattern!r}"
    return text


def fingerprint(text: str) -> str:
    """Identify a region by what it does: comments, docstrings and layout do not count."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def name_of(base: str, text: str) -> str | None:
    """Say which of our regions a text is, such as "dpm2m, inline"; None for any other."""
    own = fingerprint(text)
    for recipe in available():
        for inline in (False, True):
            if fingerprint(region_text(base, recipe.name, inline, verify=False)) == own:
                return f"{recipe.name}, {'inline' if inline else 'shared'}"
    return None
