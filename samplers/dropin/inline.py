"""Write a sampler as one self-contained class: no import of `samplers`, no table, any NFE.

The coefficients come from this package's own functions (grid, timesteps, guidance, solver), with
checks and docs dropped and the recipe's constants folded in (`specialise`); exponential weights are
written out as formulas (`written_out`). The loop around them is the only text of this file, and
every class is executed and compared with its compiled plan before it is returned.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from samplers import compile as compiler
from samplers import guidance
from samplers.compile import compile_plan
from samplers.dropin.inline_check import verify_region
from samplers.dropin.inline_parts import Parts
from samplers.dropin.specialise import specialise
from samplers.grids import GRIDS, trailing
from samplers.guidance import LARGEST_LAMBDA
from samplers.plan import Plan
from samplers.registry import Recipe, find
from samplers.schedule import NoiseSchedule


@dataclass(frozen=True)
class Host:
    """One of CFGpp's two files: how its class begins and ends, and calls the network."""

    base: str
    method: str
    before: tuple[str, ...]
    network: str
    label: str
    after: tuple[str, ...]
    family: str = "sd15"  # of the schedule
    distilled: bool = False  # has a subclass that runs on the trailing grid, without guidance


SD = Host(
    "StableDiffusion",
    'sample(self, cfg_guidance=7.5, prompt=["", ""], callback_fn=None, **kwargs)',
    ("if isinstance(prompt, str) or len(prompt) != 2:",
     '    raise ValueError(f"prompt is {prompt!r}; pass [null prompt, prompt]")',
     "uc, c = self.get_text_embed(null_prompt=prompt[0], prompt=prompt[1])",
     "zt = self.initialize_latent(uc=uc, c=c, **kwargs).detach()"),
    "uc, c",
    "SD",
    ("return (self.decode(zt.to(self.dtype)) / 2 + 0.5).clamp(0, 1).cpu()",),
)  # fmt: skip
SDXL = Host(
    "SDXL",
    "reverse_process(self, null_prompt_embeds, prompt_embeds, cfg_guidance, add_cond_kwargs,\n"
    "                        shape=(1024, 1024), callback_fn=None, **kwargs)",
    ("uc = None if isinstance(self, SDXLLightning) else null_prompt_embeds",
     "size = (1, 4, *(n // self.vae_scale_factor for n in shape))",
     "zt = self.initialize_latent(size=size, uc=uc, c=prompt_embeds, **kwargs).detach()"),
    "uc, prompt_embeds, add_cond_kwargs",
    "SDXL",
    ("return zt.to(self.dtype)",),
    "sdxl",
    distilled=True,
)  # fmt: skip
HOSTS = {host.base: host for host in (SD, SDXL)}


def inline_region(base: str, arm: str, verify: bool = True) -> str:
    """Return the class `BaseDDIMCFGpp(base)` that runs a registered sampler by itself.

    base    "StableDiffusion" or "SDXL"
    verify  execute the class and compare its coefficients with the compiled plan's
    Raises ValueError for an unknown arm, and for one whose plan the class would not reproduce.
    """
    recipe, host = find(arm), HOSTS[base]
    if recipe.inverts:
        raise ValueError(f"sampler {arm!r} is an inversion; a region draws images from noise")
    text = "\n".join([*_head(recipe, host), *_loop(recipe, host), "", *_rows(recipe, host)]) + "\n"
    if verify:
        verify_region(text, recipe, host.base, host.family)
    return text


def _plan(recipe: Recipe, nfe: int = 12) -> Plan:
    return compile_plan(recipe.name, NoiseSchedule.stable_diffusion(), nfe)


def _head(recipe: Recipe, host: Host) -> list[str]:
    units = "λ, above 2 ω in CFG units" if recipe.guidance == "cfg++" else "CFG's ω"
    return [
        '@register_solver("ddim_cfg++")',
        f"class BaseDDIMCFGpp({host.base}):",
        f'    """{recipe.name} ({recipe.source}); cfg_guidance is {units}.',
        "",
        "    Self-contained: generated from functions of the same names in cfgpp-samplers. States",
        "    are x = z/α at σ = √((1 − ᾱ)/ᾱ), clean estimates D = x − σ·ε, and λ = −ln σ.",
        '    """',
    ]


def _loop(recipe: Recipe, host: Host) -> list[str]:
    """The sampling method: one network call per row of `_rows`."""
    plan = _plan(recipe)
    probes, kicks = any(row.probe for row in plan), not plan.rate
    seen = "y" if probes else "x"
    start = "rows[0][0]" if recipe.start == "ve" else "(1 + rows[0][0] ** 2) ** 0.5"
    lines = [
        "@torch.no_grad()",
        f"def {host.method}:",
        *["from hashlib import sha256"] * plan.stochastic,
        *host.before,
        "rows = self._rows(len(self.scheduler.timesteps), cfg_guidance)",
        f"x, past = zt.float() * {start}, []",
        "times = torch.tensor([row[2] for row in rows], dtype=x.dtype, device=x.device)",
        *["y = x  # where the network looks; x waits while it looks ahead"] * probes,
    ]
    if plan.stochastic:  # `noise.generators_of`
        lines += [
            "# noise follows from an image's first latent; a copy to a GPU would hold up a step",
            "digests = [sha256(row.tobytes()).digest() for row in zt.float().cpu().numpy()]",
            "sources = [torch.Generator().manual_seed(int.from_bytes(d[:7], 'little'))"
            " for d in digests]",
            "noise = iter([[torch.randn(x.shape[1:], generator=g).to(x) for g in sources]"
            f" for r in rows if r[{5 if kicks else 4}].noise])",
        ]
    names = "sigma, after, t, weight" + ", kick" * kicks + ", carry" + ", probe" * probes
    body = [
        f"zt = ({seen} / (1 + sigma**2) ** 0.5).to(self.dtype)",
        f"eps_u, eps_c = self.predict_noise(zt, times[i], {host.network})",
    ]
    guided = "guided" if kicks else "past[0].clone()"  # a callback may write into it
    kept = f", *past[:{plan.memory - 1}]]" if plan.memory > 1 else "]"
    if kicks:
        body += [
            f"uncond, cond = ({seen} - sigma * eps.to(x) for eps in (eps_u, eps_c))",
            f"guided, past = torch.lerp(uncond, cond, weight), [uncond{kept}",
        ]
    else:
        body += [
            f"past = [{seen} - sigma * torch.lerp(eps_u.to(x), eps_c.to(x), weight){kept}",
        ]
    step = "{0}.decay * x + sum(g * d for g, d in zip({0}.gains, past))"
    body += ["x = " + step.format("carry"), *["x = x + kick * (cond - uncond)"] * kicks]
    if plan.stochastic:
        body.append("x = x + carry.noise * torch.stack(next(noise)) if carry.noise else x")
    body += [
        "zt = x / (1 + after**2) ** 0.5",
        "if callback_fn is not None:",
        f'    seen = {{"z0t": {guided}, "zt": zt, "decode": self.decode}}',
        '    zt = (seen | (callback_fn(i, t, seen) or {}))["z0t" if i == len(rows) - 1 else "zt"]',
        "    x = zt.to(x) * (1 + after**2) ** 0.5",
    ]
    if probes:
        body.append(f"y = {step.format('probe')} if probe else x")
    lines.append(f'for i, ({names}) in enumerate(tqdm(rows, desc="{host.label}")):')
    lines += [f"    {line}" for line in body] + list(host.after)
    first = ["    " + line for line in lines[:2]]
    return first + ["        " + line for line in lines[2:]]


def _rows(recipe: Recipe, host: Host) -> list[str]:
    """The method that computes the coefficients, once per image."""
    parts = Parts(recipe, _plan(recipe).memory)
    solver = parts.solver()
    grid = parts.add(GRIDS[f"ays_{host.family}" if recipe.grid == "ays" else recipe.grid], {})
    at = specialise(compiler._timestep, {"recipe": recipe}, NoiseSchedule).expression
    steps = specialise(Recipe.steps, {"self": recipe}, NoiseSchedule).expression
    tail = [
        "if not abs(cfg_guidance) < torch.inf:",
        '    raise ValueError(f"cfg_guidance is {cfg_guidance}; must be a finite number")',
        # as `NoiseSchedule.from_scheduler`: without CFGpp's 1.0, and with a zero terminal SNR
        "*table, last = (a for a in self.scheduler.alphas_cumprod.tolist() if a < 1)",
        "schedule = NoiseSchedule([*table, last or min(2**-24, table[-1] / 2)])",
    ]
    if host.distilled:
        other = parts.add(trailing, {})
        tail.append(f"grid = {other} if isinstance(self, SDXLLightning) else {grid}")
        grid = "grid"
    tail.append(
        f"lam = [-log(sigma) if sigma else torch.inf for sigma in {grid}(schedule, {steps})]"
    )
    stages = f"{solver}(lam, nfe)" if recipe.own_midpoints else f"{solver}(lam)"
    row = ["sigma", "exp(-carry.to)", at]
    if recipe.kicks:
        tail += [
            f"stages = list({stages})",
            *parts.kick(),
            "moves = [carry for sigma, carry, probe in stages if carry.gains]",
            "scale, unit = cfg_guidance, sum(kick(m) / sum(m.gains) for m in moves) / len(moves)",
            f"if scale > {LARGEST_LAMBDA:g}:",
            "    scale = scale / unit",
        ]
        stages = "stages"
        row += ["scale", "scale * kick(carry)"]
    else:
        shape = recipe.shape
        if recipe.guidance == "cfg++":  # the bell takes λ, the other shapes take ω
            mean = parts.add(guidance.mean_bell, {})
            beyond, per = (">", "/") if shape == "bell" else ("<=", "*")
            tail += [
                f"if cfg_guidance {beyond} {LARGEST_LAMBDA:g}:",
                f"    cfg_guidance = cfg_guidance {per} {mean}(schedule)",
            ]
        if shape == "constant":
            row.append("cfg_guidance")
        else:
            rates = {"bell": guidance.bell, "late": guidance.late, "rising": guidance.rising}
            tail.append(f"omega = {parts.add(rates[shape], {})}(schedule, cfg_guidance)")
            row.append("omega(sigma)")
        if recipe.cap is not None:
            bound = parts.add(guidance.bounded, {"cap": recipe.cap})
            row[-1] = f"{bound}({row[-1]}, sum(carry.gains), exp(-carry.to))"
    row += ["carry", *["probe"] * any(r.probe for r in _plan(recipe))]
    listed = textwrap.wrap(f"return [({', '.join(row)})", 90, subsequent_indent=" " * 9)
    tail += [*listed, f"        for sigma, carry, probe in {stages}]"]
    lines = [
        "def _rows(self, nfe, cfg_guidance):",
        f'    """Return {len(row)} coefficients per call; the 1.0 before CFGpp\'s ᾱ goes."""',
    ]
    schedule = parts.schedule()
    for block in (parts.mathematics(), schedule, *parts.blocks, tail):
        lines += ["    " + line for line in block]
    return ["    " + line for line in lines]
