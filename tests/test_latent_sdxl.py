"""`latent_sdxl.py` on the sdxl stand-in: CFGpp's API, and stock diffusers' images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from safetensors.torch import save_file

import latent_sdxl
from latent_sdxl import SDXL, BaseDDIMCFGpp, get_solver, register_solver
from pipelines.loading import load_pipeline, pipeline_kind
from pipelines.stable_diffusion_xl import other_vae
from samplers import available, compile_plan, generators, standard_normal

ROOT = Path(__file__).parents[1]
STANDIN = str(ROOT / "standins" / "sdxl")
PROMPT = "a large red circle on a grey background"
ORIGINAL_NAMES = (
    "ddim", "ddim_lightning", "euler", "euler_lightning", "ddim_edit", "ddim_cfg++", "euler_cfg++",
    "euler_cfg++_lightning", "ddim_cfg++_lightning", "dpm++_2m_cfgpp", "dpm++_2m_cfgpp_lightning",
    "ddim_edit_cfg++",
)  # fmt: skip


@pytest.fixture(scope="module")
def load():
    """Return get_solver on the stand-in; a model is loaded once per (name, steps)."""
    made = {}

    def solver(name: str = "ddim", steps: int = 4) -> SDXL:
        key = (name, steps)
        if key not in made:
            config = {"num_sampling": steps}
            made[key] = get_solver(name, solver_config=config, model_key=STANDIN, device="cpu")
        return made[key]

    return solver


@pytest.fixture(scope="module")
def pipe():
    pipe = StableDiffusionXLPipeline.from_pretrained(STANDIN, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, clip_sample=False, set_alpha_to_one=True
    )
    return pipe


@pytest.fixture(scope="module")
def distilled(load, tmp_path_factory):
    """The stand-in's own UNet in the form of a distilled checkpoint."""
    path = tmp_path_factory.mktemp("distilled") / "unet.safetensors"
    save_file(load().unet.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def lightning(distilled):
    def solver(name: str) -> SDXL:
        return get_solver(
            name, solver_config={"num_sampling": 4}, base_model_key=STANDIN,
            light_model_ckpt=distilled, device="cpu",
        )  # fmt: skip

    return solver


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"original_size": (24, 24), "crops_coords_top_left": (16, 8)},
        {"negative_original_size": (24, 24), "negative_target_size": (64, 64)},
    ],
)
def test_ddim_equals_the_stock_pipeline(load, pipe, sizes):
    latents = standard_normal((1, 4, 8, 8), generators([7]))
    stock = pipe(
        PROMPT, num_inference_steps=10, guidance_scale=3.0, latents=latents, output_type="pt",
        **sizes,
    ).images  # fmt: skip
    ours = load("ddim", 10).sample(cfg_guidance=3.0, prompt1=["", PROMPT], seeds=7, **sizes)
    torch.testing.assert_close(ours, stock, atol=2e-4, rtol=0)


@pytest.mark.parametrize("skip", [None, 1])
def test_embeddings_equal_the_stock_pipelines(load, pipe, skip):
    solver, other = load(), "a blue star"
    null, cond, pooled_null, pooled_cond = solver.get_text_embed("", PROMPT, "", other, skip)
    theirs = pipe.encode_prompt(
        PROMPT, other, negative_prompt="", device="cpu", clip_skip=skip
    )  # cond, null, pooled cond, pooled null
    for ours, stock in zip((cond, null, pooled_cond, pooled_null), theirs, strict=True):
        if skip and ours is null:
            continue  # diffusers does not skip layers for the negative prompt; CFGpp does
        torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("name", [*(r.name for r in available()), "ddim_cfg++"])
def test_every_registered_name_samples(name, load):
    solver = load(name)
    before = solver.evaluations
    image = solver.sample(cfg_guidance=0.5, prompt1=["", PROMPT], seeds=1)
    assert image.shape == (1, 3, 64, 64)
    assert image.std() > 0.01
    assert solver.evaluations - before == 4


def test_every_name_of_the_original_is_there():
    get_solver.__globals__["_register_recipes"]()
    assert not set(ORIGINAL_NAMES) - set(latent_sdxl._TABLE.classes)


def test_ddim_cfgpp_runs_exp2m(load):
    """The point of the patch: the original's name runs the new sampler."""
    patched = load("ddim_cfg++")
    assert type(patched) is BaseDDIMCFGpp
    image = patched.sample(cfg_guidance=0.4, prompt1=["", PROMPT], seeds=3)
    plan = compile_plan("exp2m_cfg++", patched.schedule, 4, 0.4)
    torch.testing.assert_close(image, patched.generate(plan, [PROMPT], [3])[1])


@pytest.mark.parametrize(
    ("size", "table"), [(128, "ays_sdxl"), (96, "ays_sdxl"), (64, "ays_sd15"), (8, "ays_sd15")]
)
def test_the_default_grid_is_that_of_the_size_of_pictures(size, table):
    """SDXL's table is of 1,024 pixels; SDXL-Turbo's 512 and the stand-in's 64 take SD 1.5's."""
    pipe, found = load_pipeline(STANDIN, torch.float32, "sdxl")
    pipe.unet.register_to_config(sample_size=size)
    model = SDXL.__new__(SDXL)
    model._adopt(pipe, found, {"num_sampling": 4}, torch.device("cpu"), torch.float32)
    found = compile_plan("exp2m_cfg++", model.schedule, 12, omega=2)
    assert found.rows == compile_plan("exp2m_cfg++", model.schedule, 12, omega=2, grid=table).rows


def test_an_image_depends_on_its_prompt_and_seed_alone(load):
    solver, prompts = load("euler_a"), [PROMPT, "a small blue star"]
    together = solver.sample(cfg_guidance=2.0, prompt1=["", prompts], seeds=[5, 6])
    alone = solver.sample(cfg_guidance=2.0, prompt1=["", prompts[1]], seeds=6)
    fan = solver.sample(cfg_guidance=2.0, prompt1=["", prompts[1]], seeds=[6, 9])
    for batch in (together[1:], fan[:1]):
        torch.testing.assert_close(batch, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["ddim_edit", "ddim_edit_cfg++"])
def test_an_edit_with_the_same_words_gives_the_picture_back(name, load):
    solver = load(name, 20)
    drawn = load("ddim", 20).sample(cfg_guidance=3.0, prompt1=["", PROMPT], seeds=[1, 2])
    words = {"cfg_guidance": 0.1 if "++" in name else 1.0, "src_img": drawn * 2 - 1}
    same = solver.sample(prompt1=["", PROMPT, PROMPT], **words)
    blue = solver.sample(prompt1=["", PROMPT, PROMPT.replace("red", "blue")], **words)
    assert (same - drawn).abs().mean() < 0.05
    assert (blue - drawn).abs().mean() > 2 * (same - drawn).abs().mean()


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_divergence_rows_keep_their_pooled_embedding_at_guidance_0_and_1(load, guidance):
    """CFGpp hands the positive pooled embedding to both rows there; ours is what guidance means."""
    solver = load("ddim")
    image = solver.sample(cfg_guidance=guidance, prompt1=["a blue star", PROMPT], seeds=2)
    text = PROMPT if guidance else "a blue star"
    same = solver.sample(cfg_guidance=guidance, prompt1=[text, text], seeds=2)
    torch.testing.assert_close(image, same, atol=1e-4, rtol=0)
    assert image.unique().numel() > 100


def test_divergence_the_second_prompt_defaults_to_the_first(load):
    """CFGpp then encodes an empty text, and its pooled embedding has the wrong shape."""
    solver = load("ddim")
    images = [
        solver.sample(cfg_guidance=3.0, prompt1=["", PROMPT], prompt2=second, seeds=2)
        for second in (None, ["", PROMPT], ["", "a small blue star"])
    ]
    torch.testing.assert_close(images[0], images[1])
    assert (images[0] - images[2]).abs().max() > 0.01


def test_divergence_target_size_is_height_and_width(load):
    """CFGpp swaps the two when it makes the latent."""
    image = load("ddim_cfg++").sample(prompt1=["", PROMPT], target_size=(64, 96), seeds=1)
    assert image.shape == (1, 3, 64, 96)
    plain = load("ddim").sample(prompt1=["", PROMPT], target_size=(96, 64), seeds=1)
    assert plain.shape == (1, 3, 96, 64)


def test_one_row_predictions_are_returned_twice(load):
    solver = load()
    uc, c, pooled_uc, pooled_c = solver.get_text_embed("", PROMPT)
    ids = solver.time_ids((64, 64), (0, 0), (64, 64))
    added = {"text_embeds": torch.cat([pooled_uc, pooled_c]), "time_ids": torch.cat([ids, ids])}
    z, t = torch.randn(3, 4, 8, 8), torch.tensor(500.0)
    both = solver.predict_noise(z, t, uc, c, added)
    for k, pair in enumerate(((uc, None), (None, c))):
        one = solver.predict_noise(z, t, *pair, added)
        assert one[0] is one[1]
        torch.testing.assert_close(one[0], both[k], atol=1e-5, rtol=1e-4)
    one_row = {"text_embeds": pooled_c, "time_ids": ids}  # what CFGpp passes at guidance 1
    torch.testing.assert_close(solver.predict_noise(z, t, uc, c, one_row)[1], both[1])


def test_kdiffusion_estimates_are_of_a_ve_state(load):
    solver = load()
    uc, c, pooled_uc, pooled_c = solver.get_text_embed("", PROMPT)
    ids = solver.time_ids((64, 64), (0, 0), (64, 64))
    added = {"text_embeds": torch.cat([pooled_uc, pooled_c]), "time_ids": torch.cat([ids, ids])}
    x, sigma, t = torch.randn(1, 4, 8, 8), torch.tensor(2.0), torch.tensor(500.0)
    guided, plain = solver.kdiffusion_zt_to_denoised(x, sigma, uc, c, 3.0, t, added)
    eps_u, eps_c = solver.predict_noise(x / 5**0.5, t, uc, c, added)
    torch.testing.assert_close(plain, x - 2 * eps_u)
    torch.testing.assert_close(guided, x - 2 * (eps_u + 3 * (eps_c - eps_u)))


@pytest.mark.parametrize("name", [n for n in ORIGINAL_NAMES if n.endswith("_lightning")])
def test_lightning_runs_the_conditional_row_on_trailing_timesteps(name, lightning):
    solver, seen = lightning(name), []

    def watch(step, t, state):
        seen.append(float(t))
        return state

    image = solver.sample(prompt1=["", PROMPT], seeds=1, callback_fn=watch)
    assert seen == pytest.approx([999, 749, 499, 249], abs=1)
    assert solver.evaluations == 4
    assert image.isfinite().all()
    other_null = solver.sample(prompt1=["a blue star", PROMPT], seeds=1)
    torch.testing.assert_close(image, other_null)


def test_one_text_of_an_encoder_serves_all_of_the_others(load):
    prompts, styles = ["a red circle", "a blue star"], ["a photo", "a photo"]
    for first, second in ((prompts, "a photo"), ("a photo", prompts)):
        lists = [styles if isinstance(text, str) else text for text in (first, second)]
        given, due = (
            load().sample(["", a], ["", b], seeds=[1, 2]) for a, b in ((first, second), lists)
        )
        assert torch.equal(given, due)


def test_lightning_takes_no_guidance(lightning):
    solver = lightning("ddim_lightning")
    prompt = ["", PROMPT]
    by_place = solver.sample(prompt, None, 1.0, seeds=1)
    assert torch.equal(by_place, solver.sample(prompt1=prompt, seeds=1))
    with pytest.raises(ValueError, match=r"cfg_guidance is 5.0; a distilled model takes no guid"):
        solver.sample(prompt1=["", PROMPT], cfg_guidance=5.0)


def test_lightning_loads_a_folder_and_refuses_what_does_not_fit(distilled, tmp_path, load):
    def of(checkpoint):
        return get_solver(
            "ddim_lightning", solver_config={"num_sampling": 2}, base_model_key=STANDIN,
            light_model_ckpt=checkpoint, device="cpu",
        )  # fmt: skip

    assert of(Path(STANDIN) / "unet").sample(prompt1=["", PROMPT], seeds=1).isfinite().all()
    assert of(STANDIN).scheduler.timesteps.tolist() == [999, 499]
    with pytest.raises(OSError, match=r"no checkpoint .*absent; give a distilled UNet as a"):
        of(tmp_path / "absent")
    for folder, held in (
        (Path(STANDIN) / "vae", "AutoencoderKL"),
        (ROOT / "standins" / "sd15" / "unet", "a UNet, but not SDXL's"),
        (ROOT / "prompts", "no network"),
    ):
        with pytest.raises(ValueError, match=f"{folder} holds {held}; give the folder of a dist"):
            of(folder)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"cannot read .*bad.safetensors as safetensors"):
        of(tmp_path / "bad.safetensors")
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the UNet of .* for example at 'add_emb"):
        of(tmp_path / "other.safetensors")


def test_a_crop_moves_the_picture(load):
    """With 20 pixels cut off at the top, what is drawn moves up."""
    solver, prompt = load("ddim", 20), "a small white circle at the bottom on plain slate"
    heights = []
    for crop in ((0, 0), (20, 0)):
        image = solver.sample(
            cfg_guidance=3.0, prompt1=["", prompt], seeds=[1, 2, 3, 4], crops_coords_top_left=crop
        )
        white = (image.amin(dim=1) > 0.75).float()
        rows = torch.arange(64.0)[:, None]
        heights.append(float((white * rows).sum() / white.sum()))
    assert heights[0] - heights[1] > 8


def test_the_wrong_class_is_refused_by_name():
    sd15 = str(ROOT / "standins" / "sd15")
    assert (pipeline_kind(sd15), pipeline_kind(STANDIN)) == ("sd", "sdxl")
    with pytest.raises(ValueError, match="is a StableDiffusionPipeline; load it with latent_diff"):
        get_solver("ddim", solver_config={"num_sampling": 4}, model_key=sd15, device="cpu")


def test_errors_are_one_line_that_helps(load):
    with pytest.raises(ValueError, match=r"unknown solver 'dimm'; did you mean 'ddim'"):
        get_solver("dimm", solver_config={"num_sampling": 4})
    with pytest.raises(ValueError, match="registered already"):
        register_solver("ddim")(SDXL)
    with pytest.raises(ValueError, match=r"target_size is \(60, 64\); height and width must be"):
        load().sample(prompt1=["", PROMPT], target_size=(60, 64))
    with pytest.raises(ValueError, match=r"target_size is \(64,\); it must be \(height, width\)"):
        load().sample(prompt1=["", PROMPT], target_size=(64,))
    for size in (64, (64.0, 64.0)):
        with pytest.raises(ValueError, match=r"target_size is .*; it must be \(height, width\)"):
            load().sample(prompt1=["", PROMPT], target_size=size)
    with pytest.raises(ValueError, match=r"original_size is \(64,\); it must be"):
        load().sample(prompt1=["", PROMPT], original_size=(64,))
    with pytest.raises(ValueError, match="2 null prompts and 3 prompts; pass as many of each"):
        load().sample(prompt1=[["a", "b"], ["c", "d", "e"]])
    with pytest.raises(ValueError, match=r"pass \[null prompt, prompt\]"):
        load().sample(prompt1=PROMPT)
    with pytest.raises(ValueError, match="2 texts for the first encoder and 3 for the second"):
        load().sample(prompt1=["", ["a", "b"]], prompt2=["", ["c", "d", "e"]])
    with pytest.raises(ValueError, match="only SDXL base models are sampled here, not refiners"):
        load().time_ids((64, 64), (0, 0), (6,))
    with pytest.raises(NotImplementedError, match="SDXL only loads a model; take a solver"):
        SDXL({"num_sampling": 4}, model_key=STANDIN, device="cpu").sample(prompt1=["", PROMPT])


def test_the_benchmark_region_is_marked_and_short():
    text = Path(latent_sdxl.__file__).read_text(encoding="utf-8")
    (region,) = re.findall(r"# >>> benchmark region\n(.*?)# <<< benchmark region", text, re.S)
    assert region.startswith('@register_solver("ddim_cfg++")\nclass BaseDDIMCFGpp(SDXL):')
    assert len(region.splitlines()) <= 60


def test_the_pipeline_is_small_and_complete():
    weights = list(Path(STANDIN).rglob("*.safetensors"))
    assert len(weights) == 4
    assert sum(path.stat().st_size for path in weights) <= 10e6


def test_half_precision_runs_a_vae_that_asks_for_it_in_float32(load):
    solver = get_solver(
        "ddim_cfg++", solver_config={"num_sampling": 2}, model_key=STANDIN, device="cpu",
        dtype=torch.float16,
    )  # fmt: skip
    assert solver.vae.config.force_upcast
    assert (solver.unet.dtype, solver.vae.dtype) == (torch.float16, torch.float32)
    image = solver.sample(cfg_guidance=0.5, prompt1=["", PROMPT], seeds=1)
    assert image.dtype == torch.float32
    assert image.isfinite().all()


@pytest.mark.parametrize("name", ["standin-sdxl", STANDIN])
def test_half_precision_takes_another_vae_for_hub_ids_alone(name):
    assert other_vae(None, name, torch.float16) == {}


def test_another_vae_can_be_named(load, monkeypatch):
    vae = str(Path(STANDIN) / "vae")
    config = {"num_sampling": 2}
    solver = get_solver("ddim", solver_config=config, model_key=STANDIN, device="cpu", vae_key=vae)
    image = solver.sample(cfg_guidance=3.0, prompt1=["", PROMPT], seeds=1)
    torch.testing.assert_close(
        image, load("ddim", 2).sample(cfg_guidance=3.0, prompt1=["", PROMPT], seeds=1)
    )
    with pytest.raises(OSError, match="cannot load a VAE"):
        get_solver("ddim", solver_config=config, model_key=STANDIN, device="cpu", vae_key=str(ROOT))
