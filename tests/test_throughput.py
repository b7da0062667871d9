"""The benchmark's figures add up; and speed, counted in compilations and padded positions."""

from __future__ import annotations

import collections
import csv
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import SENTENCES

import keras_agnews
from benchmarks import throughput
from keras_agnews.errors import DataError, InputError

pytestmark = pytest.mark.backend

TEXTS = [text for text, _ in SENTENCES]


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """A file as AG News has them, of our own sentences."""
    file = tmp_path / "test.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows((1, *text.split(" ", 1)) for text in TEXTS)
    return file


def number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.once
def test_the_figures_add_up(rows_file: Path, tmp_path: Path) -> None:
    model, output = tmp_path / "short", tmp_path / "rows.csv"
    keras_agnews.load("tiny-transformer", weights=None, max_length=64).save_bundle(model)
    arguments = ["--model", model, "--data", rows_file, "--repeats", "3", "--output", output]
    result = CliRunner().invoke(throughput.main, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with output.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    ours, *padded, tokenizer = rows
    assert [row["method"] for row in rows] == [
        "strings to probabilities",
        "padded to 64, Keras's predict, by 16",
        "padded to 64, Keras's predict, by 256",
        "padded to 64, our forward, by 16",
        "padded to 64, our forward, by 256",
        "tokenization alone",
    ]
    words = sum(len(text.split()) for text in TEXTS)
    for row in rows:
        assert (row["documents"], row["passes"]) == ("8", "3")
        slowest, median, fastest = (
            float(row[name]) for name in ("slowest", "docs_per_second", "fastest")
        )
        assert 0 < slowest <= median <= fastest
        assert float(row["tokens_per_second"]) == pytest.approx(median * words / 8)
        assert float(row["first_pass_s"]) > 0
        assert row["backend"] == os.environ.get("KERAS_BACKEND", row["backend"])
        assert (row["entry"], row["parameters"]) == ("tiny-transformer", "659592")
        assert int(row["cpus"]) >= 1
        assert row["device"]
        assert f"keras_agnews {keras_agnews.__version__}" in row["versions"]
    for row in padded:
        assert float(row["padding"]) == pytest.approx(1 - words / (8 * 64))
        assert row["shapes"] == "1"
        ratio = float(ours["docs_per_second"]) / float(row["docs_per_second"])
        assert float(row["ratio"]) == pytest.approx(ratio)
        assert float(row["difference"]) < 1e-5
    assert 0 < float(ours["padding"]) < float(padded[0]["padding"])
    assert float(ours["latency_ms"]) > 0
    assert (tokenizer["padding"], tokenizer["shapes"], tokenizer["ratio"]) == ("", "", "")
    shown = next(line for line in result.stdout.splitlines() if line.startswith(ours["method"]))
    assert number(shown.split()[4]) == round(float(ours["docs_per_second"]))
    assert ours["device"] in result.stdout


@pytest.mark.once
def test_a_broken_file_is_not_replaced_by_generated_texts(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    with pytest.raises(DataError):
        throughput.read_texts(str(file), ["word"])
    file.write_text("")
    with pytest.raises((DataError, InputError)):
        throughput.read_texts(str(file), ["word"])


@pytest.mark.once
def test_texts_are_generated_where_there_is_no_ag_news(
    fresh: Callable[..., str], tmp_path: Path
) -> None:
    nowhere = {"HF_HUB_OFFLINE": "1", "KERAS_AGNEWS_DATA": ""}
    homes = dict.fromkeys(("HF_HOME", "KERAS_AGNEWS_CACHE"), str(tmp_path))
    code = """
from benchmarks.throughput import read_texts
texts, origin = read_texts(None, ["[PAD]", "[UNK]", "oil", "prices", "##es", "4", "rise"])
print(len(texts), set(" ".join(texts).split()) == {"oil", "prices", "rise"}, origin)
"""
    assert fresh(code, **nowhere, **homes) == ("7600 True generated, as long as those of AG News\n")


@pytest.mark.once
def test_generated_texts_are_as_long_as_those_of_ag_news(agnews: Path) -> None:
    theirs, origin = throughput.read_texts(str(agnews), [])
    assert origin == "AG News test, complete"
    ours = throughput.generate_texts(["one", "two", "three"], len(theirs))
    lengths = [np.array([len(text.split()) for text in texts]) for texts in (theirs, ours)]
    means, spreads = zip(*((part.mean(), part.std()) for part in lengths), strict=True)
    assert means[1] == pytest.approx(means[0], rel=0.02)
    assert spreads[1] == pytest.approx(spreads[0], rel=0.05)


# Speed that cannot be lost unseen. A bound that falls may be tightened.


def test_padding_and_shapes_stay_few() -> None:
    import keras

    from keras_agnews import batching

    compiled = keras.backend.backend() != "torch"
    rng = np.random.default_rng(0)
    # 1,000 texts are a third of one window: the last, half-full batch weighs much.
    for count, most_padding, most_shapes in ((1_000, 0.18, 6), (4_000, 0.11, 8)):
        lengths = throughput.generate_lengths(count, rng)
        batches = batching.plan(lengths, 256)
        padding = 1 - lengths.sum() / sum(batch.positions for batch in batches)
        assert padding <= most_padding
        assert not compiled or len({(batch.rows, batch.length) for batch in batches}) <= most_shapes
    # Requests of any size, as a service gets them, share their shapes.
    shapes = {
        (batch.rows, batch.length)
        for count in range(1, 600)
        for batch in batching.plan(throughput.generate_lengths(count, rng), 256)
    }
    assert not compiled or len(shapes) <= 30


def test_a_second_predict_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch compiles nothing")
    clf = keras_agnews.load("tiny-transformer", weights=None)
    kind = type(clf.encoder)
    original = kind.call
    traced: collections.Counter[tuple[int, ...]] = collections.Counter()

    @functools.wraps(original)
    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Of a compiled program, Python runs this while it is traced and never again.
        traced[tuple(inputs["input_word_ids"].shape)] += 1
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(kind, "call", call)
    texts = throughput.generate_texts(clf.tokenizer.vocabulary, 200)
    first = clf.predict(texts)
    assert traced
    assert max(traced.values()) == 1
    before = traced.copy()
    np.testing.assert_allclose(clf.predict(texts[::-1])[::-1], first, atol=1e-5)
    assert traced == before
