"""`latent_diffusion.py` on the trained sd15 stand-in: CFGpp's API, and stock diffusers' images."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

import latent_diffusion
from latent_diffusion import BaseDDIMCFGpp, StableDiffusion, get_solver, register_solver
from pipelines.loading import load_pipeline
from samplers import Plan, available, compile_plan, generators, standard_normal

ROOT = Path(__file__).parents[1]
STANDIN = str(ROOT / "standins" / "sd15")
PROMPT = "a large red circle on a grey background"


@pytest.fixture(scope="module")
def load():
    """Return get_solver on the stand-in; a model is loaded once per (name, steps)."""
    made = {}

    def solver(name: str = "ddim", steps: int = 4) -> StableDiffusion:
        key = (name, steps)
        if key not in made:
            config = SimpleNamespace(num_sampling=steps)
            made[key] = get_solver(name, solver_config=config, model_key=STANDIN, device="cpu")
        return made[key]

    return solver


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionPipeline.from_pretrained(STANDIN, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_image(pipe, set_alpha_to_one: bool) -> torch.Tensor:
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, set_alpha_to_one=set_alpha_to_one
    )
    latents = standard_normal((1, 4, 8, 8), generators([7]))
    out = pipe(
        PROMPT, num_inference_steps=10, guidance_scale=3.0, latents=latents, output_type="pt"
    )
    return out.images


def test_ddim_equals_the_stock_pipeline(load, pipe):
    ours = load("ddim", 10).sample(cfg_guidance=3.0, prompt=["", PROMPT], seeds=7)
    torch.testing.assert_close(ours, stock_image(pipe, True), atol=2e-4, rtol=0)


def test_ddim_equals_the_stock_pipeline_on_a_v_prediction_model():
    standin = str(ROOT / "standins" / "sd20")
    config = {"num_sampling": 10}
    solver = get_solver("ddim", solver_config=config, model_key=standin, device="cpu")
    assert solver.card()["prediction_type"] == "v_prediction"
    stock = StableDiffusionPipeline.from_pretrained(standin, dtype=torch.float32)
    ours = solver.sample(cfg_guidance=3.0, prompt=["", PROMPT], seeds=7)
    torch.testing.assert_close(ours, stock_image(stock, True), atol=2e-4, rtol=0)


def test_divergence_stock_ddim_stops_at_the_first_training_level(load, pipe):
    """With SD's set_alpha_to_one=False, diffusers ends at ᾱ_0 (σ = 0.029); ours ends at σ = 0."""
    sd = load("ddim", 10)
    ours = sd.sample(cfg_guidance=3.0, prompt=["", PROMPT], seeds=7)
    stock = stock_image(pipe, False)
    assert (ours - stock).abs().max() > 1e-3
    levels = [row.sigma for row in compile_plan("ddim", sd.schedule, 10)]
    plan = compile_plan("ddim", sd.schedule, 10, 3.0, grid=[*levels, sd.schedule.sigma_min])
    torch.testing.assert_close(sd.generate(plan, [PROMPT], [7])[1], stock, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", [*(r.name for r in available()), "ddim_cfg++"])
def test_every_registered_name_samples(name, load):
    solver = load(name)
    before = solver.evaluations
    image = solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], seeds=1)
    assert image.shape == (1, 3, 64, 64)
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.01
    assert solver.evaluations - before == 4


def test_ddim_cfgpp_runs_exp2m(load):
    """The point of the patch: the original's name runs the new sampler."""
    patched, named = load("ddim_cfg++"), load("exp2m_cfg++")
    assert type(patched) is BaseDDIMCFGpp
    images = [s.sample(cfg_guidance=0.4, prompt=["", PROMPT], seeds=3) for s in (patched, named)]
    torch.testing.assert_close(*images)
    first_order = load("ddim_cfg++_first_order")
    other = first_order.sample(cfg_guidance=0.4, prompt=["", PROMPT], seeds=3)
    assert (images[0] - other).abs().max() > 0.01


def test_large_cfg_guidance_is_read_in_cfg_units(load, caplog):
    solver = load("ddim_cfg++")
    with caplog.at_level("INFO", logger="samplers.guidance"):
        image = solver.sample(cfg_guidance=7.5, prompt=["", PROMPT], seeds=3)
    assert "CFG units" in caplog.text
    plan = compile_plan("exp2m_cfg++", solver.schedule, 4, omega=7.5)
    torch.testing.assert_close(image, solver.generate(plan, [PROMPT], [3])[1])


@pytest.mark.parametrize("name", ["ddim_cfg++", "euler_a"])
def test_an_image_depends_on_its_prompt_and_seed_alone(name, load):
    solver, prompts = load(name), [PROMPT, "a small blue star"]
    together = solver.sample(cfg_guidance=0.5, prompt=["", prompts], seeds=[5, 6])
    alone = solver.sample(cfg_guidance=0.5, prompt=["", prompts[1]], seeds=6)
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=0)
    fan = solver.sample(cfg_guidance=0.5, prompt=["", prompts[1]], seeds=[6, 9])
    torch.testing.assert_close(fan[:1], alone, atol=1e-4, rtol=0)


def test_without_seeds_the_global_generator_decides(load):
    torch.manual_seed(0)
    first = load("euler_a").sample(cfg_guidance=2.0, prompt=["", PROMPT])
    torch.manual_seed(0)
    again = load("euler_a").sample(cfg_guidance=2.0, prompt=["", PROMPT])
    torch.testing.assert_close(first, again)


@pytest.mark.parametrize("name", ["ddim", "ddim_cfg++"])
def test_callback_sees_every_step_and_may_replace_the_state(name, load):
    solver, seen = load(name), []

    def watch(step, t, state):
        seen.append((step, float(t), state["z0t"].shape, callable(state["decode"])))
        return state

    plain = solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], seeds=2)
    watched = solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], callback_fn=watch, seeds=2)
    torch.testing.assert_close(plain, watched)
    assert [s[0] for s in seen] == [0, 1, 2, 3]
    assert all(later[1] < earlier[1] for earlier, later in pairwise(seen))

    def replace(step, t, state):
        return {**state, "zt": torch.zeros_like(state["zt"])} if step == 1 else state

    changed = solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], callback_fn=replace, seeds=2)
    assert (changed - plain).abs().max() > 0.01


def test_alpha_reads_the_shifted_table_as_cfgpp_does(load):
    solver = load("ddim")
    assert solver.alpha(0) == 1
    assert solver.alpha(1) == solver.total_alphas[0]
    assert solver.alpha(-1) == solver.final_alpha_cumprod
    assert solver.skip == 250
    assert solver.timestep(solver.sigmas[[3, 500]]).tolist() == [3, 500]


def test_one_row_predictions_are_returned_twice(load):
    solver = load("ddim")
    uc, c = solver.get_text_embed("", PROMPT)
    z, t = torch.randn(1, 4, 8, 8), torch.tensor(500.0)
    both = solver.predict_noise(z, t, uc, c)
    for k, pair in enumerate(((uc, None), (None, c))):
        one = solver.predict_noise(z, t, *pair)
        assert one[0] is one[1]
        torch.testing.assert_close(one[0], both[k], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="both are None"):
        solver.predict_noise(z, t, None, None)


def test_encode_inverts_decode_roughly(load):
    solver = load("ddim")
    image = solver.sample(cfg_guidance=3.0, prompt=["", PROMPT], seeds=4)
    back = solver.decode(solver.encode(image * 2 - 1)) / 2 + 0.5
    assert (back - image).abs().mean() < 0.05


def test_models_go_by_their_names_too():
    model = StableDiffusion({"num_sampling": 4}, model_key="standin-sd20", dtype=torch.bfloat16)
    assert model.card()["dtype"] == "bfloat16"
    assert model.card()["prediction_type"] == "v_prediction"


def test_a_long_prompt_is_cut_with_a_word_and_no_null_prompt_is_an_empty_one(load, caplog):
    solver = load("ddim")
    uc, _ = solver.get_text_embed(None, "a " * 100 + "cut off")
    assert torch.equal(uc, solver.get_text_embed("", PROMPT)[0])
    (line,) = caplog.messages
    assert re.match(r"\d+ tokens, the last \d+ cut: a a a", line)


def test_a_callback_may_only_look(load):
    def look(step, t, state):
        state["zt"].mean()

    for name in ("dpm2m", "ddim_cfg++"):
        run = {"cfg_guidance": 0.6, "prompt": ["", PROMPT], "seeds": 3}
        seen = load(name).sample(callback_fn=look, **run)
        torch.testing.assert_close(seen, load(name).sample(**run), atol=1e-5, rtol=0)


def test_errors_are_one_line_that_helps(load):
    with pytest.raises(ValueError, match=r"unknown solver 'dimm'; did you mean 'ddim'\? Known:"):
        get_solver("dimm", solver_config={"num_sampling": 4})
    with pytest.raises(ValueError, match="registered already"):
        register_solver("ddim")(StableDiffusion)
    with pytest.raises(ValueError, match="no num_sampling"):
        StableDiffusion({}, model_key=STANDIN)
    with pytest.raises(ValueError, match="num_sampling is 0; it must be a whole number"):
        StableDiffusion({"num_sampling": 0}, model_key=STANDIN, device="cpu")
    with pytest.raises(TypeError, match="unknown arguments pipe_type"):
        StableDiffusion({"num_sampling": 4}, model_key=STANDIN, pipe_type=1)
    with pytest.raises(OSError, match="give a folder in the diffusers format"):
        StableDiffusion({"num_sampling": 4}, model_key=str(ROOT / "prompts"))
    with pytest.raises(ValueError, match="2 seeds, 1 null prompts and 3 prompts"):
        load("ddim").sample(prompt=["", ["a", "b", "c"]], seeds=[1, 2])
    with pytest.raises(ValueError, match="cfg_guidance is nan; it must be finite"):
        load("ddim_cfg++").sample(cfg_guidance=float("nan"), prompt=["", PROMPT])
    for name in ("ddim", "ddim_cfg++"):
        with pytest.raises(ValueError, match=f"prompt is {PROMPT!r}; pass"):
            load(name).sample(prompt=PROMPT)
        with pytest.raises(ValueError, match=r"pass \[null prompt, prompt\]"):
            load(name).sample(prompt=[PROMPT, PROMPT, PROMPT])
    image = torch.zeros(1, 3, 64, 64)
    for name in ("ddim_edit", "coupled_edit"):
        with pytest.raises(ValueError, match=r"pass \[null prompt, source, target\]"):
            load(name).sample(image, prompt=["", PROMPT])
    with pytest.raises(ValueError, match="src_img is 60×64; height and width must be multip"):
        load("ddim_edit").sample(image[:, :, :60], prompt=["", PROMPT, PROMPT])
    with pytest.raises(ValueError, match=r"src_img is torch.uint8; pass src_img / 127.5 - 1"):
        load("ddim_edit").sample(image.to(torch.uint8), prompt=["", PROMPT, PROMPT])
    with pytest.raises(ValueError, match=r"dtype is 'float16'; pass one such as torch.float16"):
        StableDiffusion({"num_sampling": 4}, model_key=STANDIN, dtype="float16")
    with pytest.raises(OSError, match=r"give standin-sd15, .*, an existing folder or a hub id"):
        StableDiffusion({"num_sampling": 4}, model_key="sd25")
    with pytest.raises(OSError, match=r"of a single file make a folder once: .*from_single_file"):
        StableDiffusion({"num_sampling": 4}, model_key="v1-5.safetensors")
    with pytest.raises(ValueError, match="cfg_guidance is None; it must be a number"):
        load("ddim").sample(cfg_guidance=None, prompt=["", PROMPT])
    with pytest.raises(ValueError, match="unknown method 'dim'"):
        load("ddim").initialize_latent("dim")
    with pytest.raises(ValueError, match=r"prompt is 'a red circle'; pass \[null prompt, prompt\]"):
        load("ddim").sample(prompt="a red circle")
    for name in ("ddim", "ddim_cfg++"):
        with pytest.raises(ValueError, match="unknown argument 'seed'"):
            load(name).sample(prompt=["", PROMPT], seed=1)
        for seeds in ("12", [1, None], [], torch.Generator()):
            with pytest.raises(ValueError, match=r"seeds is .*; pass a whole number"):
                load(name).sample(prompt=["", PROMPT], seeds=seeds)
        for seed in (1.7, -1, 2**70):
            with pytest.raises(ValueError, match=f"a seed is {seed}; it must be a whole number"):
                load(name).sample(prompt=["", PROMPT], seeds=[seed])
    alike = [load("ddim")._seeds(seeds) for seeds in (7, 7.0, torch.tensor(7), [7])]
    assert alike == [[7]] * 4


def other_scheduler(tmp_path: Path, **changes: object) -> str:
    """Return a copy of the stand-in with changed entries of its scheduler; None takes one away."""
    place = shutil.copytree(STANDIN, tmp_path / "other")
    path = place / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return str(place)


def test_a_model_of_other_noise_is_refused_by_name(tmp_path):
    """DDIM's scheduler would fill in betas that an EDM or flow-matching model never saw."""
    key = other_scheduler(tmp_path, beta_schedule=None, trained_betas=None)
    index = Path(key) / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "EDMEulerScheduler"))
    with pytest.raises(ValueError, match="scheduler EDMEulerScheduler has no beta_schedule") as e:
        get_solver("ddim", solver_config={"num_sampling": 4}, model_key=key, device="cpu")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("steps", [4, 61])
def test_trailing_timesteps_are_as_many_as_asked_for(steps, tmp_path):
    """diffusers rounds to one more at 61 steps, 103 and others."""
    key = other_scheduler(tmp_path, timestep_spacing="trailing")
    config = {"num_sampling": steps}
    for name in ("ddim", "ddim_cfg++"):
        solver = get_solver(name, solver_config=config, model_key=key, device="cpu")
        solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], seeds=1)
        assert solver.evaluations == steps


def test_a_model_with_zero_terminal_snr_is_sampled(tmp_path):
    key = other_scheduler(tmp_path, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    for name in ("ddim", "ddim_cfg++"):
        solver = get_solver(name, solver_config={"num_sampling": 4}, model_key=key, device="cpu")
        assert solver.schedule.sigma_max == pytest.approx(4096, rel=1e-6)
        assert solver.sigmas.isfinite().all()
        assert solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], seeds=1).isfinite().all()


def test_numpy_numbers_are_numbers():
    config = {"num_sampling": np.int64(4)}
    solver = get_solver("exp2m_cfg++", solver_config=config, model_key=STANDIN, device="cpu")
    found = solver.sample(cfg_guidance=np.float32(0.5), prompt=["", PROMPT], seeds=np.int64(1))
    assert torch.equal(found, solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], seeds=1))
    given = {"eta": np.float32(0.5), "history": np.float64(0.5), "cap": np.float32(2)}
    plan = compile_plan("exp2m_cfg++", solver.schedule, np.int64(5), np.float32(0.5), **given)
    assert plan.rows == compile_plan("exp2m_cfg++", solver.schedule, 5, 0.5, eta=0.5).rows
    assert Plan.from_json(plan.to_json()) == plan


def test_looking_changes_nothing_where_a_plan_ends_in_noise(load):
    """The clean estimate is not the result there, so a callback's unchanged one is not taken."""
    solver = load("dpm++_2m_cfgpp")
    assert solver.plan("dpm++_2m_cfgpp", 0.5).end > 0
    given = {"cfg_guidance": 0.5, "prompt": ["", PROMPT], "seeds": 1}
    seen = solver.sample(**given, callback_fn=lambda step, t, state: state)
    assert torch.equal(seen, solver.sample(**given))


def test_the_benchmark_region_is_marked_and_short():
    text = Path(latent_diffusion.__file__).read_text(encoding="utf-8")
    (region,) = re.findall(r"# >>> benchmark region\n(.*?)# <<< benchmark region", text, re.S)
    assert region.startswith('@register_solver("ddim_cfg++")\nclass BaseDDIMCFGpp(StableDiffusion)')
    assert len(region.splitlines()) <= 60


def test_the_pipeline_is_small_and_complete(pipe):
    weights = list(Path(STANDIN).rglob("*.safetensors"))
    assert len(weights) == 3
    assert sum(path.stat().st_size for path in weights) <= 10e6
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe.tokenizer.model_max_length == pipe.text_encoder.config.max_position_embeddings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_give_finite_images(dtype):
    solver = get_solver(
        "ddim_cfg++", solver_config={"num_sampling": 2}, model_key=STANDIN, device="cpu",
        pipe_dtype=dtype,
    )  # fmt: skip
    image = solver.sample(cfg_guidance=0.5, prompt=["", PROMPT], seeds=1)
    assert image.dtype == torch.float32
    assert image.isfinite().all()


def test_the_k_diffusion_vocabulary_of_cfgpp(load):
    solver = load("ddim")
    sigmas = latent_diffusion.get_sigmas_karras(
        10, solver.schedule.sigma_min, solver.schedule.sigma_max
    )
    plan = compile_plan("euler", solver.schedule, 10)
    torch.testing.assert_close(sigmas, torch.tensor([*(r.sigma for r in plan), 0.0]))
    down, up = solver.get_ancestral_step(2.0, 1.0)
    assert down**2 + up**2 == pytest.approx(1.0)
    assert latent_diffusion.get_ancestral_step(2.0, 1.0, eta=0) == (1.0, 0.0)
    uc, c = solver.get_text_embed("", PROMPT)
    x, sigma, t = torch.randn(1, 4, 8, 8), torch.tensor(2.0), torch.tensor(500.0)
    guided, plain = solver.kdiffusion_x_to_denoised(x, sigma, uc, c, 3.0, t)
    eps_u, eps_c = solver.predict_noise(x / 5**0.5, t, uc, c)
    torch.testing.assert_close(solver.to_d(x, sigma, plain), eps_u, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(guided, x - 2 * (eps_u + 3 * (eps_c - eps_u)), atol=1e-5, rtol=1e-5)


def test_a_v_prediction_network_is_converted(tmp_path, load):
    """The same network, read as v: predict_noise returns ε = α·v + σ·z."""
    shutil.copytree(STANDIN, tmp_path / "v")
    path = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace('"epsilon"', '"v_prediction"'))
    config = {"num_sampling": 4}
    solver = get_solver("ddim", solver_config=config, model_key=str(tmp_path / "v"), device="cpu")
    assert solver.card()["prediction_type"] == "v_prediction"
    uc, c = solver.get_text_embed("", PROMPT)
    z, t = torch.randn(1, 4, 8, 8), torch.tensor(500.0)
    raw = load("ddim").predict_noise(z, t, uc, c)
    a = solver.total_alphas[500]
    for got, v in zip(solver.predict_noise(z, t, uc, c), raw, strict=True):
        torch.testing.assert_close(got, a.sqrt() * v + (1 - a).sqrt() * z, atol=1e-5, rtol=1e-4)


def test_a_row_without_weight_is_not_evaluated(load):
    """At ω = 1 the conditional row is all, so `sample` costs half, as `generate` does."""
    solver = load("dpm2m")
    before, calls = solver.unet_rows, solver.evaluations
    solver.sample(cfg_guidance=1.0, prompt=["", PROMPT], seeds=1)
    assert solver.unet_rows - before == solver.evaluations - calls


def test_what_the_network_predicts_may_be_written_into(load):
    solver = load("ddim")
    uc, c = solver.get_text_embed("", PROMPT)
    with torch.no_grad():
        first, second = solver.predict_noise(torch.zeros(1, 4, 8, 8), torch.tensor(9.0), uc, c)
        second -= first
    assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_folder_of_half_precision_files_alone_is_loaded(tmp_path, dtype):
    """As `save_pretrained(…, variant="fp16")` writes it, and many local copies are."""
    folder = shutil.copytree(STANDIN, tmp_path / "fp16")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(f".fp16{file.suffix}"))
    same, own = (load_pipeline(str(place), dtype)[0] for place in (folder, STANDIN))
    for a, b in zip(same.unet.parameters(), own.unet.parameters(), strict=True):
        assert torch.equal(a, b)
