"""References of real images: a folder, COCO's archive, and what is wrong with either."""

from __future__ import annotations

import hashlib
import io
import zipfile

import numpy as np
import pytest
import synthetic_run
from PIL import Image

from eval import coco, reference
from eval.__main__ import main

SIZE = 64


def photo(seed: int, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """COCO as an archive of 120 pictures, already in the cache; the networks are small ones."""
    path = tmp_path / "cache" / "val2017.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(120):
            archive.writestr(f"val2017/{i:012d}.jpg", photo(i))
    data = path.read_bytes()
    split = coco.Archive(("http://nowhere",), len(data), hashlib.sha256(data).hexdigest(), 120)
    monkeypatch.setattr(coco, "SPLITS", {"val2017": split})
    monkeypatch.setattr(coco, "extractor_for", lambda *_, **__: (synthetic_run.extractor(), {}))
    return path


def build(tiny, tmp_path):
    return coco.build("val2017", tmp_path / "coco.npz", size=SIZE, cache=tiny.parent)


def test_an_archive_gives_the_features_of_its_pictures(tiny, tmp_path, capsys):
    out = build(tiny, tmp_path)
    assert "each under its photographer's licence" in capsys.readouterr().err
    folder = tmp_path / "unpacked"
    zipfile.ZipFile(tiny).extractall(folder)
    same = reference.from_folder(folder, synthetic_run.extractor(), (SIZE, SIZE), tmp_path / "c")
    found = reference.from_npz(out, synthetic_run.extractor().scorer.identity)
    np.testing.assert_array_equal(found.features, same.features)
    np.testing.assert_array_equal(found.embedding, same.embedding)
    with np.load(out) as data:  # for other programs
        assert data["features"].dtype == np.float32 and data["n"] == 120
        np.testing.assert_allclose(data["mu"], same.features.astype(float).mean(0), atol=1e-12)
        np.testing.assert_allclose(data["sigma"], np.cov(same.features.T.astype(float)), atol=1e-12)
    assert found.label == (
        "120 images of COCO val2017, centre-cropped and resized to 64×64 by PIL bicubic with "
        "antialiasing"
    )


def test_features_are_kept(tiny, tmp_path, monkeypatch):
    build(tiny, tmp_path)
    monkeypatch.setattr(reference, "read_image", None)  # would fail if a picture were read
    build(tiny, tmp_path)


def test_a_corrupt_picture_is_named_and_counted(tiny, tmp_path, monkeypatch, capsys):
    data = bytearray(tiny.read_bytes())
    at = data.index(photo(7)[-300:-280])
    data[at : at + 20] = bytes(20)
    tiny.write_bytes(data)
    found = reference.from_npz(build(tiny, tmp_path))
    assert found.label.startswith("119 images of COCO val2017 (1 unreadable, left out)")
    assert len(found.features) == 119
    assert "000000000007.jpg: Bad CRC-32" in capsys.readouterr().err
    monkeypatch.setattr(reference, "TOLERATED", 0.001)
    with pytest.raises(ValueError, match=r"000000000007\.jpg.*remove or replace it"):
        coco.build("val2017", tmp_path / "b.npz", size=32, cache=tiny.parent)


def test_problems_are_one_line(tiny, tmp_path, monkeypatch, capsys):
    assert main(["reference", "--coco", "val2099"]) == 2
    assert "unknown COCO split 'val2099'; known: val2017" in capsys.readouterr().err
    none = lambda *_, **__: (synthetic_run.extractor(), {"fid": "no weights"})  # noqa: E731
    monkeypatch.setattr(coco, "extractor_for", none)
    assert main(["reference", "--coco", "val2017"]) == 2
    assert "cannot be built: no weights" in capsys.readouterr().err


def test_a_short_archive_is_refused(tiny, tmp_path):
    split = coco.SPLITS["val2017"]
    coco.SPLITS["val2017"] = coco.Archive(split.urls, split.size, split.sha256, 5000)
    with pytest.raises(ValueError, match="holds 120 pictures, not 5000"):
        build(tiny, tmp_path)
