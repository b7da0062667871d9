"""Rows held out of training to choose by, and what of the rest would give them away."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from keras_agnews.errors import InputError

if TYPE_CHECKING:
    from keras_agnews.data import Dataset


def split_validation(
    dataset: Dataset, fraction: float = 0.05, seed: int = 0, similarity: float = 1.0
) -> tuple[Dataset, Dataset]:
    """Hold rows out for validation, the same share of every class.

    Two rows are duplicates if their texts agree in lower case and in letters and digits alone.
    News wires repeat themselves, and a row that was trained on says nothing in validation: so no
    two validation rows are duplicates, and the rows that duplicate one are left out of training.
    A text that stands under several labels counts for the first. Every class with two different
    texts that stand under no earlier label has at least one row on each side; a class with only one
    is not held out.

    Wires also reword: two rows are near-duplicates if, of the runs of three words that either
    has, the two share at least `similarity` (the Jaccard index of their shingles; Broder 1997, "On
    the resemblance and containment of documents").

    Args:
        dataset: the rows to part; it is left as it is.
        fraction: the share of each class to hold out, between 0 and 1.
        seed: the same seed gives the same parts.
        similarity: from which on near-duplicates of a validation row are left out of training as
            well, in 0 (not included) to 1; at 1, duplicates alone are. A class of which nothing
            would be left in training keeps its near-duplicates.

    Returns:
        Training and validation rows, each in the order of `dataset`.

    Raises:
        InputError: a number out of range, or no class has two different texts.
    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction {fraction!r} is not between 0 and 1")
    if not 0 < similarity <= 1:
        raise InputError(f"similarity {similarity!r} is not above 0 and at most 1")
    if seed < 0:
        raise InputError(f"seed {seed!r} is negative")
    keys = [_duplicate_key(text) for text in dataset.texts]
    first_rows: dict[str, int] = {}
    for row, key in enumerate(keys):
        first_rows.setdefault(key, row)
    first = np.array(list(first_rows.values()), np.int64)
    rng = np.random.default_rng(seed)
    held_out: set[int] = set()
    for label in range(len(dataset.label_names)):
        candidates = first[dataset.labels[first] == label]
        wanted = max(1, round(fraction * int((dataset.labels == label).sum())))
        count = min(wanted, len(candidates) - 1)
        if count > 0:
            held_out.update(rng.permutation(candidates)[:count].tolist())
    if not held_out:
        raise InputError(
            "no class has two different texts, so none can be held out: give more rows, or rows to "
            "validate on (--validation)"
        )
    seen = {keys[row] for row in held_out}
    training = np.array([row for row, key in enumerate(keys) if key not in seen], np.int64)
    kind = "duplicates"
    if similarity < 1:
        kind = "near-duplicates"
        near = _near_duplicates(dataset.texts, training, sorted(held_out), similarity)
        labels = dataset.labels[training]
        emptied = np.setdiff1d(labels, labels[~near])
        training = training[~near | np.isin(labels, emptied)]
    dropped = len(keys) - len(training) - len(held_out)
    return (
        _take(
            dataset,
            training.tolist(),
            f"{len(held_out):,} held out for validation, {dropped:,} {kind} of them left out",
        ),
        _take(dataset, sorted(held_out), f"{len(held_out):,} held out for validation"),
    )


def _duplicate_key(text: str) -> str:
    low = text.lower()
    if text.isascii():
        kept = re.sub(r"[\W_]+", "", low)
    else:  # marks are vowels in some scripts
        kept = "".join(c for c in low if c.isalnum() or unicodedata.category(c)[0] == "M")
    # A text without letters and digits is a duplicate of nothing but itself.
    return kept or text


def _near_duplicates(
    texts: Sequence[str], rows: np.ndarray, held_out: Sequence[int], similarity: float
) -> np.ndarray:
    """Which rows, bool `(len(rows),)`, are as similar as that to one that is held out."""
    held = {row: _shingles(texts[row]) for row in held_out}
    holders: dict[tuple[str, ...], list[int]] = {}
    for row, shingles in held.items():
        for shingle in shingles:
            holders.setdefault(shingle, []).append(row)
    near = np.zeros(len(rows), bool)
    for i, row in enumerate(rows.tolist()):
        own = _shingles(texts[row])
        # A similar row shares at least `similarity` of these, so one or more of any that are more
        # than the rest; the rarest spare what everybody has, such as a wire's last line.
        enough = len(own) - math.ceil(similarity * len(own)) + 1
        rarest = sorted((holders.get(shingle, []) for shingle in own), key=len)[:enough]
        for other in set(chain.from_iterable(rarest)):
            shared = len(own & held[other])
            if shared >= similarity * (len(own) + len(held[other]) - shared):
                near[i] = True
                break
    return near


def _shingles(text: str) -> set[tuple[str, ...]]:
    """The runs of three words; of fewer than five words, nothing that could be called similar."""
    words = re.findall(r"[^\W_]+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False)) if len(words) >= 5 else set()


def _take(dataset: Dataset, rows: list[int], note: str) -> Dataset:
    return dataclasses.replace(
        dataset,
        texts=[dataset.texts[row] for row in rows],
        labels=dataset.labels[rows],
        note="; ".join(filter(None, (dataset.note, note))),
    )
