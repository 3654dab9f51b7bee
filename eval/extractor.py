"""The networks of one scoring, together, and how the default ones are found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from eval.reading import looks
from eval.scorers import STANDINS, ExactChecker, Inception, OpenClip, Scorer

SCORER = "ViT-B-32-quickgelu/openai"
# Another architecture and training set than the first's: SD 1.5 reads prompts with a text tower of
# OpenAI's, SD 2 with one trained on LAION's pictures, so each has one scorer that shares neither.
SECOND = "ViT-B-16/laion2b_s34b_b88k"


@dataclass
class Extractor:
    """The networks of one scoring.

    FID features come from `inception` when it is there, else from the scorer's image tower when
    `fid_from_scorer`, else there are none. `second` is another scorer of captions.
    """

    scorer: Scorer
    second: Scorer | None = None
    checker: ExactChecker | None = None
    inception: Inception | None = None
    fid_from_scorer: bool = True

    @property
    def identity(self) -> str:
        """16 hex digits; two extractors with the same value give the same features."""
        parts = [self.scorer.identity, self.fid_name if self.fid_from_scorer else "-"]
        parts += [x.identity if x else "-" for x in (self.checker, self.inception, self.second)]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]

    @property
    def fid_name(self) -> str:
        """What the FID features are, in words."""
        if self.inception:
            return self.inception.name
        return f"{self.scorer.name}: image embedding, of length √d"

    def fid_features(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features that FID compares, (n, d); d = 0 when there is no extractor."""
        return self.arrays(pixels)["fid"]

    def arrays(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return `fid`, `embedding` and `looks` of uint8 (n, h, w, 3), as in `Features`."""
        embedding = self.scorer.images(pixels)
        if self.inception:
            fid = self.inception.images(pixels)
        elif self.fid_from_scorer:
            fid = at_length_root_d(embedding)
        else:
            fid = np.zeros((len(pixels), 0), np.float32)
        return {"fid": fid, "embedding": unit(embedding), "looks": looks(pixels)}


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, d) to length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def at_length_root_d(embeddings: np.ndarray) -> np.ndarray:
    """Scale each row of (n, d) to length √d, so that a dimension's mean square is about 1.

    The contrastive loss sets an embedding's direction alone; its length carries nothing.
    """
    return unit(embeddings) * np.float32(embeddings.shape[1] ** 0.5)


def extractor_for(
    scorer: str | None,
    standin: bool,
    fid: bool,
    second: str | None = None,
    device: str | None = None,
) -> tuple[Extractor, dict[str, str]]:
    """Load the networks that a run needs; what cannot be had is named in the second value.

    scorer  see OpenClip; None takes the stand-ins' own, or OpenAI's ViT-B/32 for real models
    fid     whether FID features are wanted: InceptionV3 for real models, the scorer for stand-ins
    second  another scorer; None takes LAION's ViT-B/16 for real models. Stand-ins have none by
            default: their second opinion is the exact checker's
    device  where they run; default: cuda, else cpu
    """
    problems: dict[str, str] = {}
    spec = scorer or (f"local-dir:{STANDINS / 'clip'}" if standin else SCORER)
    extractor = Extractor(OpenClip(spec, device), fid_from_scorer=standin)
    if standin:
        try:
            extractor.checker = ExactChecker()
        except ValueError as error:
            problems["checker"] = str(error)
    elif fid:
        try:
            extractor.inception = Inception(device)
        except ValueError as error:
            problems["fid"] = str(error)
    if second or not standin:
        try:
            extractor.second = OpenClip(second or SECOND, device)
        except ValueError as error:
            problems["second scorer"] = str(error)
    return extractor, problems
