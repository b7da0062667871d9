"""Write a headline for a news description: encoder, additive attention, decoder.

    python examples/headline_seq2seq.py --data DIR --output headlines
    python examples/headline_seq2seq.py --output headlines --text "A news text of your own ..."

The network is that of Bahdanau et al. 2015 (arXiv:1409.0473): a bidirectional GRU reads the
description, a GRU writes the headline word by word, and at each word `AdditiveAttention` weighs
what was read. Two things are of later papers. The decoder's own state asks, and the answer goes
into the word but not into the next state (Luong et al. 2015, arXiv:1508.04025), so that all words
of a known headline are computed in one call. And a word may be copied from where attention looks
instead of taken from a vocabulary (See et al. 2017, arXiv:1704.04368), since headlines are full of
names that no vocabulary of this size has.

It is trained with the true words before each word (teacher forcing), writes greedily, and is
measured by ROUGE-L against the first words of the description. Runs on any Keras backend; a killed
run goes on with --resume. `--quick` does all of it in seconds on a few sentences of its own.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import itertools
import json
import os
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras_agnews  # noqa: F401  before Keras, for which it chooses a backend

# isort: split
import keras
import numpy as np
from keras import ops

from keras_agnews import WarmupLinearDecay, data
from keras_agnews.batching import Batches, bucket, for_keras, windows
from keras_agnews.errors import InputError, require
from keras_agnews.layers import AdditiveAttention
from keras_agnews.tokenizers import learn_words, repair_news
from keras_agnews.validation import split_validation

PADDING, UNKNOWN, START, END = range(4)
SPECIAL = ("", "[UNK]", "[START]", "[END]")
NEAR_DUPLICATES = 0.5  # rewordings of validation rows are left out of training, as in `train`


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is made of; one is resumed with the same.

    Attributes:
        vocabulary_size: words that are read.
        generated: words that can be written without being copied, the most frequent of headlines.
        longest_source: words at which a description is cut.
        longest_headline: words at which a headline is cut.
    """

    vocabulary_size: int = 20_000
    generated: int = 3_000
    longest_source: int = 48
    longest_headline: int = 12
    embedding_size: int = 96
    hidden_size: int = 192
    attention_size: int = 96
    dropout: float = 0.2
    batch_size: int = 64
    learning_rate: float = 3e-3
    validation: float = 0.04
    epochs: int = 5
    seed: int = 0


# Words and ids.


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and what is left of HTML."""
    return repair_news(text).lower().translate(_NO_PUNCTUATION).split()


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Vocabulary:
    """Words to ids: first those that can be generated, then those that are only read.

    A word that is in neither has an id within its own description, beyond the vocabulary's, under
    which it can be copied.
    """

    def __init__(self, titles: Sequence[str], descriptions: Sequence[str], settings: Settings):
        written = learn_words(titles, settings.generated - 2, "news")[2:]
        read = learn_words([*titles, *descriptions], settings.vocabulary_size, "news")[2:]
        words = [*SPECIAL, *dict.fromkeys(itertools.chain(written, read))]
        self.words = words[: settings.vocabulary_size]
        self.generated = min(settings.generated, len(SPECIAL) + len(written))
        self._ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def read(self, words: Sequence[str]) -> tuple[list[int], dict[str, int]]:
        """Ids of a description's words, and those of the words that only it has."""
        own: dict[str, int] = {}
        ids = [self._ids.get(word) or own.setdefault(word, len(self) + len(own)) for word in words]
        return ids, own

    def write(self, words: Sequence[str], own: dict[str, int]) -> list[int]:
        """Ids of a headline's words, of which some may be the description's own."""
        return [self._ids.get(word) or own.get(word, UNKNOWN) for word in words]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Descriptions and headlines as words and, padded, as ids."""

    sources: list[list[str]]
    headlines: list[list[str]]
    source_ids: np.ndarray  # int32 (n, longest_source)
    headline_ids: np.ndarray  # int32 (n, longest_headline + 1), each with an end

    @classmethod
    def make(
        cls,
        titles: Sequence[str],
        descriptions: Sequence[str],
        vocabulary: Vocabulary,
        settings: Settings,
    ) -> Pairs:
        sources = [words_of(text)[: settings.longest_source] or ["-"] for text in descriptions]
        headlines = [words_of(text) for text in titles]
        source_ids = np.zeros((len(sources), settings.longest_source), np.int32)
        headline_ids = np.zeros((len(sources), settings.longest_headline + 1), np.int32)
        for i, (source, headline) in enumerate(zip(sources, headlines, strict=True)):
            ids, own = vocabulary.read(source)
            source_ids[i, : len(ids)] = ids
            target = vocabulary.write(headline[: settings.longest_headline], own)
            headline_ids[i, : len(target) + 1] = [*target, END]
        return cls(sources, headlines, source_ids, headline_ids)

    def batches(self, settings: Settings, shuffle: bool) -> Batches:
        """Batches of descriptions of like length, the true words before each word with them."""
        lengths = (self.source_ids != PADDING).sum(axis=1)
        previous = np.roll(self.headline_ids, 1, axis=1)
        previous[:, 0] = START
        previous[previous == END] = PADDING

        def fetch(rows: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
            width = bucket(int(lengths[rows].max()), settings.longest_source)
            return {
                "source": self.source_ids[rows, :width],
                "previous": previous[rows],
                "target": self.headline_ids[rows],
            }

        return Batches(
            lengths,
            self.headline_ids,
            fetch,
            settings.batch_size,
            shuffle=shuffle,
            seed=settings.seed,
        )


# The network.


@dataclasses.dataclass(frozen=True)
class Network:
    """Three Keras models that share their layers.

    Attributes:
        train: descriptions, true headlines and those shifted by a word, to the logarithm of the
            probability of each true word, float32 `(batch, words)`.
        read: descriptions to the encoder's states and the decoder's first state.
        step: descriptions, these states, the word before and the decoder's state, to the
            probabilities of the words that can be generated, the share of generating against
            copying, the attention over the description, and the decoder's next state.
    """

    train: keras.Model
    read: keras.Model
    step: keras.Model


def build(vocabulary: Vocabulary, settings: Settings) -> Network:
    size, hidden = len(vocabulary), settings.hidden_size

    def gru(units: int, name: str) -> keras.layers.GRU:
        return keras.layers.GRU(
            units, return_sequences=True, return_state=True, use_cudnn=False, name=name
        )

    embedding = keras.layers.Embedding(size, settings.embedding_size, name="embedding")
    dropout = keras.layers.Dropout(settings.dropout, seed=settings.seed, name="dropout")
    encoder = keras.layers.Bidirectional(gru(hidden // 2, "gru"), name="encoder")
    bridge = keras.layers.Dense(hidden, activation="tanh", name="bridge")
    decoder = gru(hidden, "decoder")
    attention = AdditiveAttention(settings.attention_size, name="attention")
    attended = keras.layers.Dense(settings.embedding_size, activation="tanh", name="attended")
    generator = keras.layers.Dense(vocabulary.generated, name="generator")
    switch = keras.layers.Dense(1, activation="sigmoid", name="switch")

    def embed(ids: Any) -> Any:
        return dropout(embedding(ops.where(ids < size, ids, UNKNOWN)))

    def encode(source: Any) -> tuple[Any, Any]:
        states, _, backward = encoder(embed(source), mask=source != PADDING)
        return states, bridge(backward)  # it has read the first word last: the paper's choice

    def decode(source: Any, states: Any, previous: Any, state: Any) -> tuple[Any, ...]:
        decoded, state = decoder(embed(previous), initial_state=state)
        context, weights = attention(
            states, query=decoded, mask=source != PADDING, return_weights=True
        )
        merged = dropout(attended(ops.concatenate([decoded, context], axis=-1)))
        return ops.log_softmax(generator(merged)), switch(merged)[..., 0], weights, state

    source, previous, target = (
        keras.Input((None,), dtype="int32", name=name) for name in ("source", "previous", "target")
    )
    states, state = encode(source)
    generated, share, weights, _ = decode(source, states, previous, state)
    known = ops.minimum(target, vocabulary.generated - 1)
    generated = ops.exp(ops.take_along_axis(generated, known[..., None], axis=-1)[..., 0])
    generated = generated * ops.cast(target < vocabulary.generated, "float32")
    there = ops.cast(ops.equal(source[:, None, :], target[:, :, None]), "float32")
    copied = ops.sum(weights * there, axis=-1)
    probability = ops.log(share * generated + (1 - share) * copied + 1e-9)
    given = {"source": source, "previous": previous, "target": target}
    train = keras.Model(given, probability)

    read = keras.Model(source, [states, state])
    states, state = keras.Input((None, hidden)), keras.Input((hidden,))
    answers = decode(source, states, previous, state)
    step = keras.Model([source, states, previous, state], list(answers))
    return Network(train, read, step)


def loss(target: Any, log_probability: Any) -> Any:
    """Mean over the words of minus the logarithm of their probability."""
    there = ops.cast(ops.not_equal(target, PADDING), log_probability.dtype)
    return -ops.sum(log_probability * there) / ops.sum(there)


# Training.


def fit(
    network: Network,
    vocabulary: Vocabulary,
    train: Pairs,
    held_out: Pairs,
    settings: Settings,
    output: Path,
    resume: bool,
) -> list[dict[str, float]]:
    """Train, keep a checkpoint of each epoch in `output`, and end with the best one's weights."""
    model, dataset = network.train, train.batches(settings, shuffle=True)
    validation = held_out.batches(settings, shuffle=False)
    steps = settings.epochs * len(dataset)
    optimizer = keras.optimizers.Adam(
        WarmupLinearDecay(settings.learning_rate, steps, 0.05), global_clipnorm=1.0
    )
    model.compile(optimizer, loss)
    optimizer.build(model.trainable_variables)
    record = output / "run.json"
    # By other words the same ids mean other things.
    words = hashlib.sha256("\n".join(vocabulary.words).encode()).hexdigest()
    run: dict[str, Any] = {"settings": dataclasses.asdict(settings), "words": words, "history": []}
    if resume and record.exists():
        stored = json.loads(record.read_text())
        for name, what in (("settings", "settings"), ("words", "rows, and so other words")):
            if stored.get(name) != run[name]:
                raise InputError(f"{record} is of a run with other {what}: resume with the same")
        run = stored
        if run["history"]:
            model.load_weights(output / f"epoch-{len(run['history'])}.weights.h5")
    history: list[dict[str, float]] = run["history"]

    def score(row: dict[str, float]) -> float:
        return row["validation_loss"]

    with progress(steps) as advance:
        for epoch in range(len(history), settings.epochs):
            dataset.start_epoch(epoch)
            watcher = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, epoch=epoch: advance(
                    epoch * len(dataset) + batch + 1, f"epoch {epoch + 1}, loss {logs['loss']:.3f}"
                )
            )
            fitted = model.fit(for_keras(dataset), shuffle=False, verbose=0, callbacks=[watcher])
            row = {
                "loss": fitted.history["loss"][-1],
                "validation_loss": model.evaluate(for_keras(validation), verbose=0),
            }
            history.append(row)
            print(f"epoch {epoch + 1}: " + ", ".join(f"{k} {v:.4f}" for k, v in row.items()))
            # First the weights, then the record that names them: a kill leaves a whole pair.
            model.save_weights(output / f"epoch-{epoch + 1}.weights.h5")
            passing = record.with_suffix(".new")
            passing.write_text(json.dumps(run, indent=2))
            os.replace(passing, record)
            best = history.index(min(history, key=score))
            for old in range(1, epoch + 1):
                if old != best + 1:
                    (output / f"epoch-{old}.weights.h5").unlink(missing_ok=True)
    best = history.index(min(history, key=score))
    model.load_weights(output / f"epoch-{best + 1}.weights.h5")
    return history


@contextmanager
def progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar with the time left on a terminal; nothing elsewhere."""
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("training", total=total)
        yield lambda done, note: bar.update(task, completed=done, description=note)


# Writing.


def write(
    network: Network, vocabulary: Vocabulary, pairs: Pairs, settings: Settings, rows: int = 128
) -> tuple[list[list[str]], list[np.ndarray]]:
    """A headline for each description, word by word the most probable.

    Returns: the words of each headline, and its attention, float32 `(words, source words)`.
    """
    headlines: list[list[str]] = []
    alignments: list[np.ndarray] = []
    never = [PADDING, UNKNOWN, START]
    for window in windows(len(pairs.sources), rows):
        texts = pairs.sources[window]
        source = np.zeros((rows, settings.longest_source), np.int32)  # one shape for a compiler
        source[: len(texts)] = pairs.source_ids[window]
        source[len(texts) :, 0] = UNKNOWN
        width = len(vocabulary) + settings.longest_source
        states, state = network.read.predict_on_batch(source)
        previous = np.full((rows, 1), START, np.int32)
        chosen, looked = [], []
        for _ in range(settings.longest_headline + 1):
            generated, share, weights, state = network.step.predict_on_batch(
                [source, states, previous, state]
            )
            probabilities = np.zeros((rows, width), np.float32)
            probabilities[:, : vocabulary.generated] = share * np.exp(generated[:, 0])
            copied = (1 - share) * weights[:, 0]
            np.add.at(probabilities, (np.arange(rows)[:, None], source), copied)
            probabilities[:, never] = 0
            best = probabilities.argmax(axis=1)
            previous = np.where(best < len(vocabulary), best, UNKNOWN)[:, None].astype(np.int32)
            chosen.append(best)
            looked.append(weights[:, 0])
        for i, text in enumerate(texts):
            own = {number: word for word, number in vocabulary.read(text)[1].items()}
            ids = [int(step[i]) for step in chosen]
            ids = ids[: ids.index(END)] if END in ids else ids[: settings.longest_headline]
            headlines.append([own[n] if n in own else vocabulary.words[n] for n in ids])
            alignments.append(np.array([step[i, : len(text)] for step in looked[: len(ids)]]))
    return headlines, alignments


# Measuring.


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length: words that both have in the same order, not necessarily side by side."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(written: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L, F1, of one headline (Lin 2004, "ROUGE: a package for automatic evaluation")."""
    common = longest_common_subsequence(written, reference)
    return 2 * common / (len(written) + len(reference)) if common else 0.0


def mean_rouge(written: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    return float(np.mean([rouge_l(a, b) for a, b in zip(written, references, strict=True)]))


def measure(
    network: Network, vocabulary: Vocabulary, held_out: Pairs, test: Pairs, settings: Settings
) -> tuple[dict[str, Any], list[list[str]], list[np.ndarray]]:
    """ROUGE-L of the network and of the first k words of the description, k from validation."""
    by_k = {
        k: mean_rouge([source[:k] for source in held_out.sources], held_out.headlines)
        for k in range(1, 21)
    }
    k = max(by_k, key=lambda number: by_k[number])
    ours, _ = write(network, vocabulary, held_out, settings)
    headlines, alignments = write(network, vocabulary, test, settings)
    results = {
        "validation": {
            "rows": len(held_out.sources),
            "network": mean_rouge(ours, held_out.headlines),
            "lead_words": by_k[k],
        },
        "test": {
            "rows": len(test.sources),
            "network": mean_rouge(headlines, test.headlines),
            "lead_words": mean_rouge([source[:k] for source in test.sources], test.headlines),
        },
        "lead_words_k": k,
        "mean_words": float(np.mean([len(words) for words in headlines])),
        "mean_words_of_titles": float(np.mean([len(words) for words in test.headlines])),
    }
    return results, headlines, alignments


def draw(path: Path, source: list[str], headline: list[str], weights: np.ndarray) -> None:
    """The alignment as in the paper's figure 3: a pixel is a weight, black 0 and white 1."""
    require("matplotlib", "bench", "to draw an alignment")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 0.24 * len(source), 1.5 + 0.24 * len(headline)))
    axes = figure.subplots()
    axes.imshow(weights, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks(range(len(source)), source, rotation=90)
    axes.set_yticks(range(len(headline)), headline)
    axes.xaxis.tick_top()
    figure.savefig(path, dpi=120, bbox_inches="tight")


# The whole.


def quick_pairs() -> tuple[list[str], list[str]]:
    """Titles and descriptions of our own, enough to see the network learn to copy."""
    who = ("Orlen", "Vandoria", "Keswick", "Tamarin", "Brightwater", "Halden", "Corvo", "Ashby")
    what = (
        ("opens new bridge", "opened a new bridge"),
        ("wins cup final", "won the cup final"),
        ("cuts profit forecast", "cut its forecast for profit"),
        ("launches weather probe", "launched a probe to watch the weather"),
        ("signs trade accord", "signed an accord on trade"),
    )
    when = ("Monday", "Tuesday", "Thursday")
    rows = [
        (f"{name} {short}", f"PORT ELM - On {day} {name} {long}.")
        for name, (short, long), day in itertools.product(who, what, when)
    ]
    titles, descriptions = zip(*rows, strict=True)
    return list(titles), list(descriptions)


QUICK = Settings(
    vocabulary_size=60,
    generated=25,
    longest_source=13,
    longest_headline=5,
    embedding_size=16,
    hidden_size=32,
    attention_size=16,
    dropout=0.0,
    batch_size=8,
    learning_rate=2e-2,
    validation=0.1,
    epochs=8,
)


def load(options: argparse.Namespace, settings: Settings) -> tuple[Vocabulary, list[Pairs]]:
    """The vocabulary, and the rows to train on, to validate on and to test on."""
    if options.quick:
        titles, descriptions = quick_pairs()
        test = titles[::7], descriptions[::7]
        titles, descriptions = (
            [text for i, text in enumerate(texts) if i % 7] for texts in (titles, descriptions)
        )
    else:
        titles, descriptions = data.load_titles("train", options.data)
        titles, descriptions = titles[: options.rows], descriptions[: options.rows]
        test = data.load_titles("test", options.data)
    # A title and its description travel through the split as one text of two lines.
    joined = [
        "\n".join(" ".join(text.split()) for text in row)
        for row in zip(titles, descriptions, strict=True)
    ]
    rows = data.Dataset(joined, np.zeros(len(joined), np.int32), ("news",), "", "")
    similarity = 1.0 if options.quick else NEAR_DUPLICATES
    train, held_out = split_validation(
        rows, settings.validation, seed=settings.seed, similarity=similarity
    )
    split = [
        tuple(zip(*(text.split("\n") for text in part.texts), strict=True))
        for part in (train, held_out)
    ]
    vocabulary = Vocabulary(*split[0], settings)
    return vocabulary, [
        Pairs.make(*part, vocabulary, settings) for part in (split[0], split[1], test)
    ]


def _finished(output: Path, settings: Settings) -> bool:
    """Whether a directory has a run of all its epochs."""
    record = output / "run.json"
    return record.exists() and len(json.loads(record.read_text())["history"]) >= settings.epochs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", help="directory of AG News' CSV files; else KERAS_AGNEWS_DATA")
    parser.add_argument("--output", type=Path, default=Path("headlines"), help="directory")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rows", type=int, help="train on so many rows at most")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--quick", action="store_true", help="a few sentences of its own, seconds")
    parser.add_argument("--text", help="with a finished run in --output: write its headline, draw")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in ("epochs", "seed")}
    settings = dataclasses.replace(
        QUICK if options.quick else Settings(),
        **{name: value for name, value in given.items() if value is not None},
    )
    keras.utils.set_random_seed(settings.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    vocabulary, (train, held_out, test) = load(options, settings)
    network = build(vocabulary, settings)
    print(f"{len(train.sources):,} rows, {network.train.count_params():,} parameters")
    if options.text is not None and not options.text.strip():
        raise InputError("--text is empty: give a news text")
    if options.text is not None and not _finished(options.output, settings):
        raise InputError(f"{options.output} has no finished run: train one without --text first")
    resume = options.resume or options.text is not None
    fit(network, vocabulary, train, held_out, settings, options.output, resume)
    if options.text is not None:
        own = Pairs.make([""], [options.text], vocabulary, settings)
        headlines, alignments = write(network, vocabulary, own, settings, rows=1)
        print(" ".join(headlines[0]))
        if headlines[0]:
            draw(options.output / "text.png", own.sources[0], headlines[0], alignments[0])
        return
    results, headlines, alignments = measure(network, vocabulary, held_out, test, settings)
    results |= {"train_rows": len(train.sources), "backend": keras.backend.backend()}
    results |= {"settings": dataclasses.asdict(settings)}
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    with (options.output / "headlines.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("written", "title"))
        writer.writerows(
            (" ".join(a), " ".join(b)) for a, b in zip(headlines, test.headlines, strict=True)
        )
    if headlines[0]:
        draw(options.output / "alignment.png", test.sources[0], headlines[0], alignments[0])
    for part in ("validation", "test"):
        row = results[part]
        print(
            f"{part}: ROUGE-L F1 {row['network']:.4f}, first {results['lead_words_k']} words "
            f"{row['lead_words']:.4f} ({row['rows']:,} rows)"
        )


if __name__ == "__main__":
    main()
