"""Samplers inside stock diffusers pipelines draw what the loop draws with the same network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DModel,
)
from PIL import Image

from pipelines.diffusers_scheduler import PlanScheduler, use_sampler
from samplers import NoiseSchedule, as_epsilon, compile_plan, sample, trajectory

STANDINS = Path(__file__).parents[1] / "standins"
PROMPT = "a large red circle above a small blue star"


@pytest.fixture(scope="module")
def pipes():
    """Return a function name → pipeline of that stand-in, each loaded once."""
    loaded = {}

    def pipe_of(name: str):
        if name not in loaded:
            kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
            loaded[name] = kind.from_pretrained(STANDINS / name, dtype=torch.float32)
            loaded[name].set_progress_bar_config(disable=True)
        return loaded[name]

    yield pipe_of


@pytest.fixture
def sd15(pipes):
    pipe = pipes("sd15")
    yield pipe
    if isinstance(pipe.scheduler, PlanScheduler):
        pipe.scheduler.detach()


def noise(count: int = 1, seed: int = 3) -> torch.Tensor:
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def latents(pipe, z: torch.Tensor, nfe: int = 6, omega: float = 2.5, **more) -> torch.Tensor:
    arguments = {"num_inference_steps": nfe, "guidance_scale": omega, "latents": z}
    prompts = [PROMPT] * len(z) if z is not None else PROMPT
    return pipe(prompts, **arguments | more, output_type="latent").images


def network(pipe, count: int):
    """Return the pipeline's network as the loop calls it."""
    if isinstance(pipe, StableDiffusionXLPipeline):
        cond, uncond, pooled, pooled_uncond = pipe.encode_prompt(
            PROMPT, do_classifier_free_guidance=True
        )
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2 * count, -1)
        texts = torch.cat([pooled_uncond.expand(count, -1), pooled.expand(count, -1)])
        added = {"text_embeds": texts, "time_ids": ids}
    else:
        (cond, uncond), added = pipe.encode_prompt(PROMPT, "cpu", 1, True), None
    states = torch.cat([uncond.expand(count, -1, -1), cond.expand(count, -1, -1)])

    @torch.no_grad()
    def model(z, t):
        out = pipe.unet(torch.cat([z, z]), t, states, added_cond_kwargs=added).sample
        return out.chunk(2)

    kind = pipe.scheduler.config.prediction_type
    return as_epsilon(model, kind, NoiseSchedule.from_scheduler(pipe.scheduler))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("sd15", "exp2m_cfg++"),
        ("sd15", "ddim_cfg++"),
        ("sd15", "dpm2s"),
        ("sd15", "dpm++_2s_a"),
        ("sd15", "unipc"),
        ("sd15", "dpm++_2m_cfgpp"),
        ("sd20", "exp2m_cfg++"),
        ("sdxl", "exp2m_cfg++"),
    ],
)
def test_a_pipeline_draws_what_the_loop_draws(pipes, model, name):
    pipe, z = pipes(model), noise(2)
    expected = network(pipe, 2), NoiseSchedule.from_scheduler(pipe.scheduler)
    scheduler = use_sampler(pipe, name)
    drawn = latents(pipe, z, 12)
    plan = compile_plan(name, expected[1], 12, omega=2.5)
    assert scheduler.plan == plan
    scheduler.detach()
    torch.testing.assert_close(drawn, sample(expected[0], z, plan), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"noise": "path"}, {"preset": "standin-sd15-nfe8"}, {"eta": 0.5, "grid": "karras"}]
)
def test_options_are_the_loop_s(sd15, options):
    z, model = noise(2), network(sd15, 2)
    plan = compile_plan("exp2m_cfg++", NoiseSchedule.from_scheduler(sd15.scheduler), 8, **options)
    use_sampler(sd15, scale=plan.scale, **options)
    torch.testing.assert_close(latents(sd15, z, 8), sample(model, z, plan), rtol=1e-4, atol=1e-4)
    assert sd15.scheduler.plan == plan


def test_ddim_is_that_of_diffusers(sd15):
    own = DDIMScheduler.from_config(
        sd15.scheduler.config, timestep_spacing="leading", clip_sample=False, set_alpha_to_one=True
    )
    stock = StableDiffusionPipeline(
        **sd15.components | {"scheduler": own}, requires_safety_checker=False
    )
    stock.set_progress_bar_config(disable=True)
    z = noise()
    expected = latents(stock, z, 10, 7.5)
    use_sampler(sd15, "ddim")
    torch.testing.assert_close(latents(sd15, z, 10, 7.5), expected, rtol=1e-3, atol=1e-3)


def test_an_image_is_its_first_latent_s_alone(sd15):
    use_sampler(sd15)
    z = noise(3)
    together = latents(sd15, z)
    torch.testing.assert_close(together[1:2], latents(sd15, z[1:2]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guidance_scale_is_the_strength(sd15, dtype):
    scheduler = use_sampler(sd15)
    try:
        for omega in (1.5, 7.25):
            sd15.to(dtype)
            latents(sd15, noise().to(dtype), 3, omega)
            plan = compile_plan("exp2m_cfg++", scheduler.schedule, 3, omega=omega)
            assert scheduler.plan.scale == pytest.approx(plan.scale, rel=0.02)
            assert dtype != torch.float32 or scheduler.plan == plan
    finally:
        sd15.to(torch.float32)


def test_inference_mode_changes_nothing(sd15):
    use_sampler(sd15)
    expected = latents(sd15, noise())
    with torch.inference_mode():
        assert torch.equal(latents(sd15, noise()), expected)


def test_a_fixed_strength_and_options_hold_whatever_guidance_scale_says(sd15):
    scheduler = use_sampler(sd15, scale=0.3, eta=0, grid="karras")
    first, second = (latents(sd15, noise(), omega=omega) for omega in (1.5, 9))
    assert torch.equal(first, second)
    plan = compile_plan("exp2m_cfg++", scheduler.schedule, 6, 0.3, eta=0, grid="karras")
    assert scheduler.plan == plan


def test_without_guidance(sd15):
    use_sampler(sd15, "ddim")
    with pytest.raises(ValueError, match=r"asked for 1 rows for 1 images.*above 1"):
        latents(sd15, noise(), omega=0.6)
    use_sampler(sd15, "ddim", omega=1)
    torch.testing.assert_close(latents(sd15, noise(), omega=1), latents(sd15, noise(), omega=5))


def test_a_negative_prompt_is_the_other_row(sd15):
    use_sampler(sd15)
    plain, other = (latents(sd15, noise(), negative_prompt=[text]) for text in ("", "a blue star"))
    assert not torch.allclose(plain, other, atol=0.05)


def test_what_is_no_guidance_by_two_rows_is_refused_or_said(sd15, caplog):
    use_sampler(sd15)
    with pytest.raises(ValueError, match="leave out guidance_rescale"):
        latents(sd15, noise(), omega=7.5, guidance_rescale=0.7)
    use_sampler(sd15, omega=7.5)
    plain = latents(sd15, noise(), omega=7.5)
    assert "left out" not in caplog.text
    assert torch.equal(latents(sd15, noise(), omega=7.5, guidance_rescale=0.7), plain)
    assert "such as guidance_rescale, is left out" in caplog.text


def test_equal_rows_have_no_strength_to_read(sd15):
    use_sampler(sd15)
    assert latents(sd15, noise(), negative_prompt=[PROMPT]).isfinite().all()


def test_noise_levels_of_one_s_own(sd15):
    scheduler = use_sampler(sd15)
    latents(sd15, noise(), sigmas=[14.0, 5.0, 2.0, 0.5])
    assert [row.sigma for row in scheduler.plan] == pytest.approx([14.0, 5.0, 2.0, 0.5])
    assert scheduler.plan.end == 0


def test_image_to_image_starts_on_the_grid(sd15):
    """Half of the grid is left out; the picture's latent, noised to its level, starts the rest."""
    scheduler = use_sampler(sd15)
    pipe = StableDiffusionImg2ImgPipeline.from_pipe(sd15)
    pipe.set_progress_bar_config(disable=True)
    picture = Image.new("RGB", (64, 64), "red")
    generator = torch.Generator().manual_seed(1)
    pipe(
        PROMPT, picture, 0.5, num_inference_steps=8, guidance_scale=2, generator=generator,
        output_type="latent",
    )  # fmt: skip
    whole = compile_plan("exp2m_cfg++", scheduler.schedule, 8, omega=2)
    assert [row.sigma for row in scheduler.plan] == pytest.approx([r.sigma for r in whole][4:])
    weights = [row.weight for row in scheduler.plan]
    assert weights == pytest.approx([r.weight for r in whole][4:])
    use_sampler(pipe, "dpm++_2s_a")
    with pytest.raises(ValueError, match="cannot start in the middle"):
        pipe(PROMPT, picture, 0.5, num_inference_steps=8, guidance_scale=2)
    pipe.scheduler.detach()


def test_noise_is_added_as_by_diffusers(sd15):
    scheduler, times = use_sampler(sd15), torch.tensor([40, 700])
    clean, z = noise(2), noise(2, seed=4)
    expected = DDIMScheduler.from_config(scheduler.config).add_noise(clean, z, times)
    torch.testing.assert_close(scheduler.add_noise(clean, z, times), expected)
    assert torch.equal(
        scheduler.add_noise(clean, z, times[:1])[:1], scheduler.add_noise(clean, z, times)[:1]
    )


def test_inpainting_keeps_what_is_not_masked(sd15):
    use_sampler(sd15)
    pipe = StableDiffusionInpaintPipeline.from_pipe(sd15)
    pipe.set_progress_bar_config(disable=True)
    picture, mask = Image.new("RGB", (64, 64), "green"), Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))

    def draw(prompt: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return pipe(
            prompt, picture, mask, height=64, width=64, num_inference_steps=8, guidance_scale=3,
            generator=generator, output_type="latent",
        ).images  # fmt: skip

    left, right = (draw(PROMPT) - draw("a yellow square")).abs().split(4, dim=-1)
    assert right.max() < 1e-5 < 0.1 < left.max()
    use_sampler(pipe, "dpm2s")
    with pytest.raises(ValueError, match="'dpm2s' looks ahead"):
        draw(PROMPT)
    pipe.scheduler.detach()


def test_a_controlnet_that_says_nothing_changes_nothing(sd15):
    use_sampler(sd15)
    expected, control = latents(sd15, noise()), ControlNetModel.from_unet(sd15.unet)
    pipe = StableDiffusionControlNetPipeline(
        **sd15.components, controlnet=control, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    drawn = latents(pipe, noise(), image=Image.new("RGB", (64, 64), "red"))
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_callback_changes_the_run(sd15, in_place):
    model, schedule = network(sd15, 1), NoiseSchedule.from_scheduler(sd15.scheduler)

    def damp(pipe, index, t, given):
        z = given["latents"]
        return {"latents": z.mul_(0.9) if in_place else z * 0.9} if index == 2 else given

    scheduler, z = use_sampler(sd15, eta=0), noise()
    drawn = latents(sd15, z, callback_on_step_end=damp)
    scheduler.detach()
    for step in trajectory(model, z, compile_plan("exp2m_cfg++", schedule, 6, omega=2.5, eta=0)):
        if step.index == 2:
            step.latent = step.latent * 0.9
    torch.testing.assert_close(drawn, step.latent, rtol=1e-4, atol=1e-4)


def test_the_pipeline_gets_its_own_scheduler_back(sd15):
    own, z = sd15.scheduler, noise()
    before = latents(sd15, z)
    use_sampler(sd15)
    use_sampler(sd15, "ddim")  # in place of the first, whose own is not a sampler's
    sd15.scheduler.detach()
    assert sd15.scheduler is own and not sd15.unet._forward_hooks
    assert torch.equal(latents(sd15, z), before)


def test_a_pipeline_that_shares_a_detached_sampler_says_how_to_go_on(sd15):
    use_sampler(sd15)
    shared = StableDiffusionImg2ImgPipeline.from_pipe(sd15)
    shared.scheduler.detach()  # that of sd15, which it was made for
    with pytest.raises(ValueError, match=r"detached from another pipeline.*detach\(pipe\)"):
        shared(PROMPT, torch.zeros(1, 3, 64, 64), num_inference_steps=4, guidance_scale=2)
    shared.scheduler.detach(shared)
    assert shared.scheduler is sd15.scheduler


def test_what_cannot_be_used_is_refused(sd15):
    with pytest.raises(ValueError, match="did you mean 'exp2m_cfg"):
        use_sampler(sd15, "exp2m_cfgpp")
    with pytest.raises(ValueError, match="is an inversion"):
        use_sampler(sd15, "ddim_inversion")
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    textless = SimpleNamespace(unet=UNet2DModel(block_out_channels=(32,), **blocks))
    for other in (object(), textless):
        with pytest.raises(ValueError, match="has no unet that reads a text"):
            use_sampler(other)
    scheduler = use_sampler(sd15)
    with pytest.raises(ValueError, match="has not been called"):
        scheduler.step(noise(), torch.tensor(999.0), noise())
    sd15.unet(torch.cat([noise()] * 2), 999, sd15.encode_prompt(PROMPT, "cpu", 2, False)[0])
    with pytest.raises(ValueError, match="nfe is None"):
        scheduler.step(noise(), torch.tensor(999.0), noise())


def test_a_loop_of_one_s_own_may_run_twice(sd15):
    """The scheduler is ready again after its last step, as those of diffusers are."""
    scheduler, states = use_sampler(sd15, omega=3), sd15.encode_prompt(PROMPT, "cpu", 1, True)
    states = torch.cat([states[1], states[0]])
    scheduler.set_timesteps(4)
    ends = []
    for _ in range(2):
        z = noise()
        for t in scheduler.timesteps:
            with torch.no_grad():
                out = sd15.unet(torch.cat([z, z]), t, states).sample
            z = scheduler.step(out.chunk(2)[0], t, z).prev_sample
        ends.append(z)
    assert torch.equal(*ends) and ends[0].std() > 0.5
