"""More texts to train on, made from those that there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_SPAN = (0.3, 0.9)  # of a text's words
_OPENING = (3, 12)  # words, as headlines have
_REPLACED = (0.1, 0.5)  # of the words that have near ones
_WORD = re.compile(r"[^\W\d_]+")
_STREAM = 21_361  # of random numbers: any but the others' will do


def crop(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` random spans of each text: of the first all, then of the second, and so on.

    A span is a run of whole words, 30 to 90 % of the text's, and at least one; words are what white
    space parts, so in a script that has none, the text itself is the one span.
    """
    rng = np.random.default_rng([seed, len(texts), count])
    spans = []
    for text in texts:
        words = text.split()
        for share in rng.uniform(*_SPAN, count).tolist():
            length = max(1, round(share * len(words)))
            start = int(rng.integers(max(1, len(words) - length + 1)))
            spans.append(" ".join(words[start : start + length]))
    return spans


def cut_openings(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` beginnings of each text, of 3 to 12 of its words, in the order of `crop`.

    Of news the first words are the headline, or much of it.
    """
    low, high = _OPENING
    lengths = np.random.default_rng([seed, len(texts), count, low]).integers(
        low, high + 1, (len(texts), count)
    )
    return [
        " ".join(words[:length])
        for words, row in zip(map(str.split, texts), lengths.tolist(), strict=True)
        for length in row
    ]


def words_of(texts: Iterable[str]) -> set[str]:
    """The words that `replace_words` looks up, in lower case."""
    return {word.lower() for text in texts for word in _WORD.findall(text)}


def replace_words(
    texts: Sequence[str], count: int, seed: int, near: Mapping[str, Sequence[str]]
) -> list[str]:
    """`count` copies of each text with words replaced by near ones, in the order of `crop`.

    Of a copy's words, 10 to 50 % are replaced, each by one of those that `near` has under the word
    in lower case; a word that it has not stays (Jiao et al. 2020, arXiv:1909.10351, section 4.1).
    """
    rng = np.random.default_rng([seed, len(texts), count, _STREAM])
    copies = []
    for text in texts:
        parts = _WORD.split(text)
        words = _WORD.findall(text)
        found = [near.get(word.lower(), ()) for word in words]
        for share in rng.uniform(*_REPLACED, count).tolist():
            chosen, draws = rng.random((2, len(words))).tolist()
            new = [
                others[int(draw * len(others))] if others and choice < share else word
                for word, others, choice, draw in zip(words, found, chosen, draws, strict=True)
            ]
            copies.append("".join(a + b for a, b in zip(parts, [*new, ""], strict=True)))
    return copies
