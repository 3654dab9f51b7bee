"""The stand-in's domain: reproducible, honest captions, disjoint splits, real hard negatives."""

import re
from collections import Counter

import numpy as np
import pytest

from standins import scenes, tokenizer
from standins.negatives import KINDS, hard_negatives

ROOT_TOKENIZER = scenes.__file__.replace("scenes.py", "sd15/tokenizer")


def pairs_of(scene: scenes.Scene) -> Counter:
    return Counter(thing.pair for thing in scene.things)


def seen_in(scene: scenes.Scene) -> list[tuple[str, str, float, float]]:
    return [(t.shape, t.colour, t.x, t.y) for t in scene.things]


def test_a_scene_is_a_function_of_split_and_index():
    first, again = (scenes.sample("train", 17) for _ in range(2))
    assert first[0] == again[0]
    assert first[2] == again[2]
    np.testing.assert_array_equal(first[1], again[1])


def test_images_are_64_by_64_rgb_bytes():
    _, image, _ = scenes.sample("val", 3)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert np.ptp(image) > 20


def test_splits_share_no_scene():
    drawn = {split: {scenes.sample(split, k)[0] for k in range(100)} for split in scenes.SPLITS}
    for one in drawn:
        for other in drawn:
            assert one == other or not drawn[one] & drawn[other]


def test_training_never_draws_a_held_out_pair():
    drawn = Counter(t.pair for k in range(3000) for t in scenes.sample("train", k)[0].things)
    assert not scenes.HELD_OUT & set(drawn)
    assert len(drawn) == len(scenes.SHAPES) * len(scenes.COLOURS) - len(scenes.HELD_OUT)


def test_held_out_pairs_can_be_asked_for():
    for k in range(50):
        scene, _, text = scenes.sample("test", k, count=1, held_out=True)
        assert set(pairs_of(scene)) <= scenes.HELD_OUT
        assert set(scenes.parse(text).pairs) <= scenes.HELD_OUT


def test_objects_lie_inside_and_apart():
    for k in range(300):
        scene, _, _ = scenes.sample("val", k)
        for n, a in enumerate(scene.things):
            reach = 1.1 * scenes.RADII[a.size]
            assert reach <= min(a.x, a.y)
            assert max(a.x, a.y) <= scenes.SIZE - reach
            for b in scene.things[:n]:
                assert np.hypot(a.x - b.x, a.y - b.y) > reach + 1.1 * scenes.RADII[b.size]


def test_captions_read_back_as_what_is_drawn():
    related = 0
    for k in range(500):
        scene, _, text = scenes.sample("test", k, held_out=None)
        promise = scenes.parse(text)
        assert Counter(promise.pairs) == pairs_of(scene), text
        if promise.relation:
            related += 1
            assert promise.relation == scenes.relation(*scene.things), text
        assert all(scenes.keeps(promise, seen_in(scene)).values()), text
    assert related > 80


def test_keeps_notices_each_kind_of_mistake():
    promise = scenes.parse("a red circle to the left of a small blue star on plain grey")
    right = [("circle", "red", 10.0, 30.0), ("star", "blue", 50.0, 30.0)]

    def wrong(*seen):
        return {name for name, held in scenes.keeps(promise, list(seen)).items() if not held}

    assert wrong(*right) == set()
    assert wrong(*right[::-1]) == set()
    assert wrong(("circle", "red", 55.0, 30.0), right[1]) == {"relation", "all"}
    assert {"pairs", "all"} <= wrong(("circle", "blue", 10, 30), ("star", "red", 50, 30))
    assert "shapes" not in wrong(("circle", "blue", 10, 30), ("star", "red", 50, 30))
    assert {"shapes", "colours", "pairs", "all"} <= wrong(right[0])
    assert {"shapes", "pairs"} <= wrong(right[0], ("ring", "blue", 50, 30))
    assert {"colours", "pairs"} <= wrong(right[0], ("star", "pink", 50, 30))


def test_parse_refuses_what_names_no_coloured_shape():
    with pytest.raises(ValueError, match="no coloured shape in 'a dog on a beach'"):
        scenes.parse("a dog on a beach")


def test_hard_negatives_change_exactly_one_word_and_its_article():
    kinds = set()
    for k in range(300):
        _, _, text = scenes.sample("test", k, held_out=None)
        found = hard_negatives(text, np.random.default_rng(k), 5)
        assert len({wrong for _, wrong in found}) == 5
        for kind, wrong in found:
            kinds.add(kind)
            before, after = (re.sub(r"\ban\b", "a", t).split() for t in (text, wrong))
            assert len(before) == len(after), (text, wrong)
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1, (text, wrong)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", wrong), wrong
            true, false = scenes.parse(text), scenes.parse(wrong)
            if kind in ("colour", "shape", "count"):
                assert Counter(true.pairs) != Counter(false.pairs)
            else:
                assert true.pairs == false.pairs
    assert kinds == set(KINDS)


def test_relations_between_twins_are_left_alone():
    text = "a small red star above a red star on plain tan"
    for seed in range(20):
        kinds = {kind for kind, _ in hard_negatives(text, np.random.default_rng(seed), 5)}
        assert "place" not in kinds


def test_tokenizer_has_one_token_per_word_and_room_for_every_caption():
    words = tokenizer.load(ROOT_TOKENIZER)
    captions = [scenes.sample("test", k, held_out=None)[2] for k in range(1000)]
    ids = words(captions)["input_ids"]
    assert max(map(len, ids)) <= words.model_max_length == tokenizer.LENGTH
    for text, row in zip(captions, ids, strict=True):
        assert len(row) == len(text.replace(",", " ,").split()) + 2
        assert words.decode(row, skip_special_tokens=True).replace(" ,", ",") == text
    assert [words.bos_token_id, words.eos_token_id] == [len(words) - 2, len(words) - 1]


@pytest.mark.slow
def test_tokenizer_files_are_reproducible(tmp_path):
    tokenizer.build(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (tmp_path.__class__(ROOT_TOKENIZER) / file.name).read_bytes()
