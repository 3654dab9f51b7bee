"""The shipped checker reads renders; the shipped scorer loads and tells captions apart."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.scorers import OpenClip
from standins import scenes
from standins.checker import CELL, FOLDER, Checker, Network, split_cells
from standins.degrade import degrade
from standins.measures import GROUP, Share, reading, samples_keep, scorer_picks
from standins.train_checker import loss_of, targets

CLIP = Path(scenes.__file__).parent / "clip"


@pytest.fixture(scope="module")
def drawn() -> tuple[list[scenes.Scene], torch.Tensor, list[str]]:
    made = [scenes.sample("test", k, held_out=None) for k in range(100)]
    images = torch.from_numpy(np.stack([image for _, image, _ in made])).permute(0, 3, 1, 2)
    return [scene for scene, *_ in made], images, [text for *_, text in made]


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker.load()


def test_clean_renders_are_read(checker, drawn):
    shares = reading(drawn[0], checker.read(drawn[1]))
    assert shares["scenes"].value >= 0.97
    assert shares["shapes"].value >= 0.97
    assert shares["colours"].value >= 0.97


def test_captions_of_clean_renders_are_kept(checker, drawn):
    assert samples_keep(drawn[2], checker.read(drawn[1]))["right"].value >= 0.97


def test_objects_are_found_where_they_are(checker, drawn):
    off = []
    for scene, seen in zip(drawn[0], checker.read(drawn[1]), strict=True):
        for thing in scene.things:
            nearest = [np.hypot(thing.x - x, thing.y - y) for _, _, x, y in seen]
            off.append(min(nearest, default=64.0))
    assert np.median(off) < 2
    assert np.quantile(off, 0.95) < CELL / 2


def test_reading_does_not_depend_on_the_batch(checker, drawn):
    whole, single = checker.read(drawn[1]), checker.read(drawn[1], batch=7)
    for a, b in zip(whole, single, strict=True):
        assert [o[:2] for o in a] == [o[:2] for o in b]
        np.testing.assert_allclose([o[2:] for o in a], [o[2:] for o in b], atol=1e-3)


def test_an_empty_backdrop_shows_nothing(checker):
    empty = [scenes.Scene(kind, "grey", ()) for kind in ("plain", "gradient")]
    pictures = [scenes.render(scene, np.random.default_rng(0)) for scene in empty]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    assert checker.read(images) == [[], []]


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64, 3, dtype=torch.uint8)]
)
def test_other_arrays_are_refused_in_one_line(checker, images):
    with pytest.raises(ValueError, match="the checker reads uint8") as caught:
        checker.read(images)
    assert "\n" not in str(caught.value)


def test_targets_point_at_the_objects(drawn):
    near, shape, colour, offset = targets(drawn[0])
    for n, scene in enumerate(drawn[0]):
        for thing in scene.things:
            row, column = int(thing.y // CELL), int(thing.x // CELL)
            assert near[n, row, column] >= 0.59
            assert scenes.SHAPES[shape[n, row, column]] == thing.shape
            assert tuple(scenes.COLOURS)[colour[n, row, column]] == thing.colour
            x, y = offset[n, :, row, column].tolist()
            assert (column + 0.5 + x) * CELL == pytest.approx(thing.x, abs=1e-3)
            assert (row + 0.5 + y) * CELL == pytest.approx(thing.y, abs=1e-3)


def test_the_loss_is_least_where_the_targets_are(drawn):
    near, shape, colour, offset = wanted = targets(drawn[0][:8])
    cells = torch.cat(
        [
            torch.logit(near.clamp(1e-6, 1 - 1e-6))[:, None],
            30 * torch.nn.functional.one_hot(shape, 8).permute(0, 3, 1, 2),
            30 * torch.nn.functional.one_hot(colour, 10).permute(0, 3, 1, 2),
            offset,
        ],
        dim=1,
    )
    torch.manual_seed(0)
    assert loss_of(cells, wanted) < loss_of(cells + torch.randn_like(cells), wanted)
    assert [
        part.shape[1:] for part in split_cells(Network().eval()(torch.zeros(1, 3, 64, 64)))
    ] == [
        (8, 8),
        (8, 8, 8),
        (10, 8, 8),
        (2, 8, 8),
    ]


def test_degrading_is_reproducible_and_stays_in_range(drawn):
    images = drawn[1][:4].float() / 127.5 - 1
    one, two = (degrade(images, torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert one.abs().max() <= 1
    assert 0 < (one - images).abs().mean() < 0.1


def test_shares_carry_wilson_intervals():
    low, high = Share(9, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)  # Wilson 1927, a textbook case
    assert Share(0, 0).interval == (0.0, 1.0)


def test_reading_counts_objects_as_multisets():
    thing = scenes.Thing("ring", "red", "small", False, 20.0, 20.0)
    scene = scenes.Scene("plain", "grey", (thing, thing))
    shares = reading([scene], [[("ring", "red", 20.0, 20.0), ("star", "red", 40.0, 40.0)]])
    assert Counter({n: s.hits for n, s in shares.items()}) == Counter(
        {"shapes": 1, "colours": 2, "pairs": 1, "scenes": 0, "singles": 0}
    )


def test_weights_are_small():
    assert (FOLDER / "checker.safetensors").stat().st_size <= 1.5e6
    assert (CLIP / "open_clip_model.safetensors").stat().st_size <= 4e6


def test_the_scorer_picks_the_right_caption(drawn):
    scorer = OpenClip(f"local-dir:{CLIP}")
    picks = scorer_picks(scorer, drawn[1].permute(0, 2, 3, 1).contiguous().numpy(), drawn[2])
    assert picks[f"of {GROUP}"].value >= 0.85
    assert picks["hard"].value >= 0.7
