"""What the hub holds, for the tests of prefetch: names as in the real repositories, no contents."""

from __future__ import annotations

SD, XL = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0"
VAE = "madebyollin/sdxl-vae-fp16-fix"
CLIP = "timm/vit_base_patch32_clip_224.openai"
SECOND = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


def listing(*parts: str) -> list[str]:
    """Files as Stability's repositories have them: every format and variant of every network."""
    files = [".gitattributes", "README.md", "model_index.json", "all-in-one.safetensors", "x.ckpt"]
    files += ["scheduler/scheduler_config.json", "vae_decoder/model.onnx", "vae_1_0/config.json"]
    for name in ("tokenizer", "tokenizer_2") if "text_encoder_2" in parts else ("tokenizer",):
        files += [f"{name}/{f}" for f in ("merges.txt", "vocab.json", "tokenizer_config.json")]
    for part in parts:
        stem, old = ("model", "pytorch_model") if "text" in part or "check" in part else ("", "")
        stem, old = stem or "diffusion_pytorch_model", old or "diffusion_pytorch_model"
        files += [f"{part}/config.json", f"{part}/flax_model.msgpack", f"{part}/model.onnx"]
        files += [f"{part}/{stem}{v}.safetensors" for v in ("", ".fp16")]
        files += [f"{part}/{old}{v}.bin" for v in ("", ".fp16")]
    return [*files, "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/openvino_model.bin"]


def index(kind: str, *networks: str) -> dict:
    library = {"unet": "diffusers", "vae": "diffusers", "safety_checker": "stable_diffusion"}
    classes = {
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "safety_checker": "StableDiffusionSafetyChecker",
        "text_encoder_2": "CLIPTextModelWithProjection",
    }
    parts = {
        name: [library.get(name, "transformers"), classes.get(name, "CLIPTextModel")]
        for name in networks
    }
    parts["tokenizer"] = ["transformers", "CLIPTokenizer"]
    if "text_encoder_2" in networks:
        parts["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    parts["scheduler"] = ["diffusers", "DDIMScheduler"]
    parts["image_encoder"] = [None, None]
    return {"_class_name": kind, "_diffusers_version": "0.35.0", **parts}


SD_PARTS = ("unet", "vae", "text_encoder", "safety_checker")
XL_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
INDEX = {
    SD: index("StableDiffusionPipeline", *SD_PARTS),
    XL: index("StableDiffusionXLPipeline", *XL_PARTS),
}
FILES = {
    SD: listing(*SD_PARTS),
    XL: listing(*XL_PARTS),
    VAE: ["config.json", "diffusion_pytorch_model.safetensors", "sdxl_vae.safetensors"],
    CLIP: ["open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
    SECOND: ["open_clip_config.json", "open_clip_model.safetensors", "README.md"],
}
MEGABYTE = 10**6
