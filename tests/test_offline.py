"""Folders need no network: with every socket closed they load; what is missing is named."""

from __future__ import annotations

import socket

import pytest

from eval.__main__ import main
from eval.extractor import SCORER, extractor_for
from eval.models import ROOT, find, load
from eval.scorers import Inception, OpenClip


@pytest.fixture
def closed(monkeypatch, tmp_path):
    """No connection can be made, and no cache holds anything."""

    def refuse(*_, **__):
        raise OSError("the network was asked")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_model_folder_is_drawn_without_a_network(closed, tmp_path, capsys):
    words = ["run", "--model", str(ROOT / "standins" / "sdxl"), "--arms", "ddim", "--scales", "2"]
    words += ["--prompts", str(ROOT / "prompts" / "scenes_dev40.txt"), "--limit", "1"]
    words += ["--seeds", "100", "--nfe", "1", "--device", "cpu", "--no-score"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "1 images drawn" in capsys.readouterr().out


def test_the_scorers_of_a_stand_in_are_in_the_checkout(closed):
    extractor, problems = extractor_for(None, standin=True, fid=True)
    assert extractor.scorer and extractor.checker and problems == {}


def test_missing_inception_names_the_command(closed, monkeypatch):
    for offline in ("0", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        with pytest.raises(
            ValueError, match=r"prefetch --model sd15 --scorers.* weights-inception.*pth"
        ):
            Inception()


def test_a_missing_scorer_names_the_command(closed, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"scorer .* prefetch --model sd15 --scorers"):
        OpenClip(SCORER)


def test_a_missing_model_names_the_command(closed, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"`hf download stable-diffusion-v1-5/stable-diffusion-v1-5`"):
        load(find("sd15"), 1, "cpu", "float32")
