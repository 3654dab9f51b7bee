"""Reference features in memory, with what every scoring needs of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from eval.extractor import Extractor
from eval.kernels import cubic, gaussian, within
from eval.metrics import Statistics
from eval.neighbours import NEIGHBOURS, radii

OWN = ("kernel", "embedding_kernel", "radii")


@dataclass(frozen=True)
class Reference:
    """What images are compared with; arrays are None when only statistics are known.

    features   (n, d) what FID, KID, precision and recall compare
    embedding  (n, e) the scorer's image embeddings at length 1, for CMMD
    looks      (n, 2) mean saturation and RMS contrast
    size       the (width, height) that pictures were resized to, where that is known
    """

    label: str
    statistics: Statistics
    features: np.ndarray | None = None
    embedding: np.ndarray | None = None
    looks: np.ndarray | None = None
    own: Mapping[str, np.ndarray] = field(default_factory=dict)  # what `parts` gave before
    size: tuple[int, int] | None = None

    @cached_property
    def kernel(self) -> float | None:
        """The reference's own part of KID."""
        if "kernel" in self.own:
            return float(self.own["kernel"])
        return None if self.features is None else within(cubic, self.features)

    @cached_property
    def embedding_kernel(self) -> float | None:
        """The reference's own part of CMMD."""
        if "embedding_kernel" in self.own:
            return float(self.own["embedding_kernel"])
        return None if self.embedding is None else within(gaussian, self.embedding)

    @cached_property
    def radii(self) -> np.ndarray | None:
        """The reference's own part of precision."""
        if "radii" in self.own:
            return self.own["radii"]
        known = self.features is not None and len(self.features) > NEIGHBOURS
        return radii(self.features) if known else None

    def parts(self) -> dict[str, np.ndarray]:
        """Return what every scoring needs and depends on the reference alone, for an .npz."""
        found = {name: getattr(self, name) for name in OWN}
        return {name: np.asarray(value) for name, value in found.items() if value is not None}


def reference_of(
    arrays: Mapping[str, np.ndarray], label: str, size: tuple[int, int] | None = None
) -> Reference:
    """Make a reference of `features` and what else of an .npz is there."""
    features, embedding = arrays["features"], arrays.get("embedding")
    own = {name: arrays[name] for name in OWN if name in arrays}
    if embedding is None:
        own.pop("embedding_kernel", None)
    looks = arrays.get("looks")
    return Reference(label, Statistics.of(features), features, embedding, looks, own, size)


def joined(parts: list[dict[str, np.ndarray]], extractor: Extractor) -> dict[str, np.ndarray]:
    """Join the arrays of batches under the names of an .npz; `scorer` says whose embeddings."""
    names = {"fid": "features", "embedding": "embedding", "looks": "looks"}
    arrays = {to: np.concatenate([part[name] for part in parts]) for name, to in names.items()}
    return (
        arrays | reference_of(arrays, "").parts() | {"scorer": np.array(extractor.scorer.identity)}
    )
