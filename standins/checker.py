"""Read pictures of scenes: which shapes in which colours stand where.

A small convolutional network looks at an 8 × 8 grid; each cell says whether an object's centre is
near, its shape, its colour and how far off the centre is. Reading keeps the strongest cells that
lie apart. Trained on renders and on VAE reconstructions (standins/train_checker.py); used to judge
samples against `scenes.parse` and `scenes.keeps`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from standins.scenes import COLOURS, SHAPES, SIZE

CELL = 8  # pixels per grid cell
THRESHOLD = 0.4  # centre score that counts as an object; training targets peak at 0.6 to 1
APART = 12.0  # pixels; the centres of two objects are at least 24 apart
FOLDER = Path(__file__).parent / "checker"

Seen = tuple[str, str, float, float]  # shape, colour, x, y in pixels from the top left


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=2, dilation=2, bias=False)
        self.norm_first, self.norm_second = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.norm_first(self.first(x)))
        return F.relu(x + self.norm_second(self.second(hidden)))


class Network(nn.Module):
    """Map images (B, 3, 64, 64) in [-1, 1] to cells (B, 21, 8, 8).

    Channels: centre logit; shape logits (8); colour logits (10); centre minus cell centre in cells
    (x, y).
    """

    def __init__(self):
        super().__init__()
        stem = []
        for before, after, kernel, stride in ((3, 32, 5, 2), (32, 64, 3, 2), (64, 96, 3, 2)):
            stem += [
                nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*stem, Block(96), Block(96), Block(96))
        self.head = nn.Conv2d(96, 1 + len(SHAPES) + len(COLOURS) + 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def split_cells(cells: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split (B, 21, 8, 8) into centre (B, 8, 8), shape, colour and offset, channels second."""
    centre, shape, colour, offset = cells.split([1, len(SHAPES), len(COLOURS), 2], dim=1)
    return centre[:, 0], shape, colour, offset


class Checker:
    """Reads uint8 pictures; make one with `Checker.load()`."""

    def __init__(self, network: Network):
        self.network = network.eval()

    @classmethod
    def load(cls, folder: Path | None = None) -> Checker:
        """Load the weights (float16 on disk, float32 in use) of `folder`, by default ours."""
        network = Network()
        network.load_state_dict(load_file((folder or FOLDER) / "checker.safetensors"))
        return cls(network)

    @torch.inference_mode()
    def read(self, images: torch.Tensor | np.ndarray, batch: int = 256) -> list[list[Seen]]:
        """Return for each picture the objects seen, strongest first.

        images  uint8 (N, 3, 64, 64), else ValueError
        """
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.shape[1:] != (3, SIZE, SIZE):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}; the checker reads uint8 "
                f"(N, 3, {SIZE}, {SIZE}): scale to 0…255, round, and put channels second"
            )
        seen: list[list[Seen]] = []
        for part in images.split(batch):
            centre, shape, colour, offset = split_cells(self.network(part.float() / 127.5 - 1))
            names = shape.argmax(1).numpy(), colour.argmax(1).numpy()
            seen += [
                _objects(*each)
                for each in zip(centre.sigmoid().numpy(), *names, offset.numpy(), strict=True)
            ]
        return seen


def _objects(
    score: np.ndarray, shape: np.ndarray, colour: np.ndarray, offset: np.ndarray
) -> list[Seen]:
    """Pick cells above the threshold, best first, whose predicted centres lie apart."""
    found: list[Seen] = []
    colours = tuple(COLOURS)
    for cell in np.argsort(-score, axis=None, kind="stable"):
        row, column = divmod(int(cell), SIZE // CELL)
        if score[row, column] < THRESHOLD:
            break
        x = float((column + 0.5 + offset[0, row, column]) * CELL)
        y = float((row + 0.5 + offset[1, row, column]) * CELL)
        if all(np.hypot(x - other[2], y - other[3]) > APART for other in found):
            found.append((SHAPES[shape[row, column]], colours[colour[row, column]], x, y))
    return found
