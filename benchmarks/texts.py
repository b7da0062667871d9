"""The texts that are measured on: AG News, or generated ones of the same lengths."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click
import numpy as np

from keras_agnews import data
from keras_agnews.errors import DownloadError, InputError, MissingDependencyError

# The AG News test split: 7,600 texts, their words log-normal.
TEXTS, MEAN_WORDS, SIGMA = 7_600, 38, 0.26
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Texts:
    """What is read.

    Attributes:
        texts: n strings.
        labels: the right answer of each, `None` where the texts are generated.
        origin: a word on what they are.
    """

    texts: list[str]
    labels: list[int] | None
    origin: str

    def sample(self, count: int) -> Texts:
        """`count` of them, each length in its share of all; all where there are fewer."""
        if count >= len(self.texts):
            return self
        drawn = self.drawn(count)
        labels = self.labels and [self.labels[i] for i in drawn]
        return Texts([self.texts[i] for i in drawn], labels, self.origin)

    def batches(self, lengths: np.ndarray, size: int, count: int) -> Texts:
        """`count` batches of `size` texts of like length, evenly from the shortest to the longest.

        They are those that all texts in order of their length are cut into: two such batches of a
        small sample would be half padding.

        Args:
            lengths: int `(n,)`, tokens of each text.
            size: of a batch.
            count: how many batches; all texts are given where there are no more.
        """
        order, whole = np.argsort(lengths, kind="stable"), len(lengths) // size
        if count >= whole:
            return self
        chosen = ((np.arange(count) + 0.5) / count * whole).astype(int)
        drawn = np.concatenate([order[i * size : (i + 1) * size] for i in chosen])
        labels = self.labels and [self.labels[i] for i in drawn]
        return Texts([self.texts[i] for i in drawn], labels, self.origin)

    def drawn(self, count: int) -> np.ndarray:
        """Which ones `sample` draws, in order; fewer are always among more.

        What unsorted batches pad hangs on the few longest: of 64 texts drawn at random it was a
        quarter more than of all. Multiples of the golden ratio lie evenly, however many there are.
        """
        by_length = np.argsort([len(text.split()) for text in self.texts], kind="stable")
        places = np.argsort(np.arange(len(by_length)) * _GOLDEN % 1, kind="stable")
        return np.sort(by_length[places[:count]])

    def write(self, directory: str | Path, split: str = "test") -> None:
        """Leave them for another process to `read`."""
        file = Path(directory) / f"{split}.json"
        file.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, directory: str | Path, split: str = "test") -> Self:
        """What `write` left."""
        return cls(**json.loads((Path(directory) / f"{split}.json").read_text(encoding="utf-8")))


def read_texts(path: str | None, vocabulary: Sequence[str], split: str = "test") -> Texts:
    """The AG News texts of a split; generated ones if there are none.

    Only what cannot be had is replaced: a file that cannot be read is an error.

    Args:
        path: as `keras_agnews.data.load_agnews` takes it.
        vocabulary: of which texts are generated.
        split: "test" or "train".
    """
    try:
        dataset = data.load_agnews(split, path)
    except (DownloadError, MissingDependencyError) as error:
        click.echo(f"AG News is not to be had: {error}", err=True)
        return Texts(generate_texts(vocabulary), None, "generated, as long as those of AG News")
    if not dataset.texts:
        raise InputError(f"{dataset.source} holds no text to measure on")
    return Texts(dataset.texts, dataset.labels.tolist(), f"AG News {split}, {dataset.note}")


def generate_texts(vocabulary: Sequence[str], count: int = TEXTS, seed: int = 0) -> list[str]:
    """Texts of words of a vocabulary, as long as those of AG News.

    Args:
        vocabulary: sorted by frequency; its tokens that are not letters alone are left out.
        count: how many texts.
        seed: of the random numbers.
    """
    words = np.array([token for token in vocabulary if token.isalpha()])
    if not len(words):
        raise InputError("the vocabulary holds no word to generate texts from: pass --data")
    rng = np.random.default_rng(seed)
    lengths = generate_lengths(count, rng)
    frequencies = 1 / np.arange(1, len(words) + 1)  # Zipf's law
    drawn = rng.choice(words, lengths.sum(), p=frequencies / frequencies.sum())
    return [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def generate_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Words of `count` texts, int64, distributed as those of AG News."""
    lengths = rng.lognormal(np.log(MEAN_WORDS) - SIGMA**2 / 2, SIGMA, count)
    return np.maximum(1, lengths.round().astype(np.int64))
