"""What images are compared with: renders, folders, arrays and statistics; unusable ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
import synthetic_run
from PIL import Image
from synthetic_run import MeanColours, make_reference, make_run

from eval import reference, score
from eval.extractor import Extractor


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "extractor_for", lambda *_: (Extractor(MeanColours()), {}))
    make_reference(tmp_path / "reference.npz")
    return make_run(tmp_path / "run")


def scored(run):
    return score.score(run, reference=str(run.parent / "reference.npz"), bootstrap=50)


def test_rendered_reference_is_cached(tmp_path, capsys):
    scorer = MeanColours()
    first = reference.rendered(Extractor(scorer), count=40, cache=tmp_path)
    calls = scorer.calls
    again = reference.rendered(Extractor(scorer), count=40, cache=tmp_path)
    assert scorer.calls == calls and (first.features == again.features).all()
    assert len(first.features) == first.statistics.n == 40


def test_folder_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(80, 120, 3), (64, 64, 3), (200, 100, 3)]):
        pixels = rng.integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    found = reference.load(str(tmp_path), synthetic_run.extractor(), (64, 64), False)
    assert found.features.shape == (3, 12) and "bicubic" in found.label
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png.*remove or replace"):
        reference.load(str(tmp_path), synthetic_run.extractor(), (64, 64), False)


def test_a_last_block_of_unreadable_pictures_alone_is_tolerated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(reference, "BATCH", 4)
    monkeypatch.setattr(reference, "TOLERATED", 0.2)
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_bytes(b"no image")
    found = reference.load(str(tmp_path), synthetic_run.extractor(), (16, 16), False)
    assert found.features.shape == (8, 12) and "1 unreadable" in found.label
    assert "9.png" in capsys.readouterr().err


def test_pictures_of_another_size_are_told(tmp_path, run):
    own, made = json.loads((run / "config.json").read_text())["size"], synthetic_run.extractor()
    data = np.load(run.parent / "reference.npz")["features"]
    for size, said in ((tuple(own), False), ((own[0] * 2, own[1] * 2), True)):
        known = replace(reference.reference_of({"features": data}, "pictures"), size=size)
        path = reference.save(known, made, tmp_path / "r.npz")
        notes = " ".join(score.score(run, reference=str(path), bootstrap=20)["notes"])
        assert (f"make one with python -m eval reference --size {max(own)}" in notes) == said


def test_statistics_as_reference(tmp_path, run):
    data = np.load(run.parent / "reference.npz")["features"].astype(np.float64)
    path = tmp_path / "stats.npz"
    np.savez(path, mu=data.mean(0), sigma=np.cov(data, rowvar=False), n=len(data))
    by_statistics = score.score(run, reference=str(path), bootstrap=20)["cells"]["ddim@w3"]
    by_features = scored(run)["cells"]["ddim@w3"]
    assert by_statistics["fid"] == pytest.approx(by_features["fid"], rel=1e-6)
    assert by_statistics["kid"] is by_statistics["fid_floor"] is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder or file"),
        (lambda p: p.mkdir(), "0 images"),
        (lambda p: p.write_bytes(b"text"), "not a readable .npz"),
        (lambda p: np.savez(p.open("wb"), other=np.zeros(3)), "it needs 'features'"),
        (lambda p: np.savez(p.open("wb"), mu=np.zeros(3), sigma=np.eye(2)), "do not fit"),
        (lambda p: np.savez(p.open("wb"), features=np.eye(9)), "feature dimensions"),
        (lambda p: np.savez(p.open("wb"), features=np.eye(12) * np.nan), "not a finite matrix"),
        (lambda p: np.savez(p.open("wb"), features=np.float32(1)), "not a finite matrix"),
        (lambda p: np.savez(p.open("wb"), mu=["a"], sigma=np.eye(1)), "mu .* not a finite vector"),
        (lambda p: np.savez(p.open("wb"), mu=[1.0], sigma=np.eye(1), n="abc"), "n is .*abc"),
    ],
)
def test_unusable_references_give_one_line(tmp_path, run, make, message):
    path = tmp_path / "given"
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        score.score(run, reference=str(path), bootstrap=20)
    assert "\n" not in str(caught.value)


def test_a_saved_reference_is_the_same_but_for_another_scorers_embeddings(tmp_path):
    made = Extractor(MeanColours())
    found = reference.rendered(made, count=20, cache=tmp_path)
    path = reference.save(found, made, tmp_path / "r.npz")
    same, other = (reference.from_npz(path, s) for s in ("mean-colours-1", "another"))
    assert same.embedding_kernel == found.embedding_kernel and same.kernel == found.kernel
    assert (same.radii == found.radii).all() and same.looks.shape == (20, 2)
    assert other.embedding is other.embedding_kernel is None and other.kernel == found.kernel
    assert np.linalg.norm(found.embedding, axis=1) == pytest.approx(1)
