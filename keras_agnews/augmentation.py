"""More texts to train on, made from those that there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SPAN = (0.3, 0.9)  # of a text's words
_OPENING = (3, 12)  # words, as headlines have


def crop(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` random spans of each text: of the first all, then of the second, and so on.

    A span is a run of whole words, 30 to 90 % of the text's, and at least one.
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
