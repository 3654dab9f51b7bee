"""Make the FID reference of real images: COCO's validation pictures, downloaded and read once.

The archive stays in the cache and is read as it is, without unpacking; nothing of it is part of
this project.
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from eval.download import fetch
from eval.extractor import extractor_for
from eval.reference import CACHE, from_files, save

LICENCE = (
    "COCO's pictures are photographs from Flickr, each under its photographer's licence; the "
    "annotations, which are not used, are CC BY 4.0. See the terms of use on cocodataset.org. "
    "Do not hand the pictures on; the features are only for comparing."
)


@dataclass(frozen=True)
class Archive:
    """One split: where its .zip is, its bytes, checksum and number of pictures."""

    urls: tuple[str, ...]
    size: int
    sha256: str
    images: int


# The bucket has a certificate under Amazon's name, but not under its own: the second is plain HTTP.
SPLITS = {
    "val2017": Archive(
        (
            "https://s3.amazonaws.com/images.cocodataset.org/zips/val2017.zip",
            "http://images.cocodataset.org/zips/val2017.zip",
        ),
        815_585_330,
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        5000,
    )
}


def build(
    split: str,
    out: Path | None = None,
    scorer: str | None = None,
    size: int = 512,
    cache: Path = CACHE,
) -> Path:
    """Download a split unless it is there, and write its features for `score --reference`.

    scorer  whose embeddings CMMD compares; see `eval.scorers.OpenClip`
    size    the side, in pixels, that pictures are cropped and resized to: that of the model
    Raises ValueError or OSError, in one line, for what the caller can mend.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown COCO split {split!r}; known: {', '.join(SPLITS)}")
    extractor, problems = extractor_for(scorer, standin=False, fid=True)
    if "fid" in problems:  # before the download, which would be for nothing
        raise ValueError(f"the reference cannot be built: {problems['fid']}")
    print(LICENCE, file=sys.stderr)
    archive = SPLITS[split]
    path = fetch(archive.urls, cache / f"{split}.zip", archive.size, archive.sha256)
    try:
        pictures = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is damaged; delete it and run again") from None
    with pictures:
        names = sorted(name for name in pictures.namelist() if name.endswith(".jpg"))
        if len(names) != archive.images:
            raise ValueError(f"{path} holds {len(names)} pictures, not {archive.images}; delete it")
        files = [zipfile.Path(pictures, name) for name in names]
        name = f"COCO {split}"
        found = from_files(files, name, archive.sha256, extractor, (size, size), cache)
    return save(found, extractor, out or cache / f"coco-{split}-{size}.npz")
