"""Build the stand-ins' tokenizer: CLIP's kind of byte-level BPE, learned from the captions.

    python -m standins.tokenizer standins/sd15/tokenizer

The text encoder and the scorer share it. Every word of the grammar is one token; any other text
falls back to pieces and bytes. Same inputs, same files: nothing is drawn at random.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from standins import scenes

LENGTH = 32  # tokens, both ends included; the text encoders have as many positions
CAPTIONS = 20_000  # of split "train" to learn merges from; all words occur many times
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """Return GPT-2's 256 printable stand-ins for bytes, in the order that CLIP's files use."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + k) for k in range(len(hidden))]


def words_of_captions(count: int = CAPTIONS) -> Counter[str]:
    """Count the words (punctuation apart) of the first `count` training captions."""
    words: Counter[str] = Counter()
    for index in range(count):
        words.update(scenes.sample("train", index, held_out=None)[2].replace(",", " ,").split())
    return words


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Merge the commonest neighbours (ties: alphabetical) until every word is one token."""
    split = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merge(parts, best) for word, parts in split.items()}


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged, k = [], 0
    while k < len(parts):
        joined = parts[k : k + 2] == pair
        merged.append("".join(pair) if joined else parts[k])
        k += 2 if joined else 1
    return tuple(merged)


def build(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, vocab.json and merges.txt into `folder`.

    The two end tokens get the highest ids: open_clip pools where the id is largest.
    """
    merges = learn_merges(words_of_captions())
    symbols = byte_symbols()
    entries = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), START, END]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    if len(vocabulary) != len(entries):
        raise ValueError("two merges spell the same token; change the tie rule in learn_merges")
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes the joint file only; older versions read this
    # pair instead.
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def load(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    build(folder)
    tokenizer = load(folder)
    print(
        f"{folder}: {len(tokenizer)} tokens, start {tokenizer.bos_token_id}, "
        f"end {tokenizer.eos_token_id}, at most {tokenizer.model_max_length} per caption"
    )


if __name__ == "__main__":
    main()
