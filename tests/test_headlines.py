"""The example that writes headlines: its measure, its ids, and all of it on a few sentences."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.backend

WORDS = st.lists(st.sampled_from("abc"), max_size=7)


@pytest.fixture(scope="module")
def example() -> Any:
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("the whole is tried on PyTorch alone, which has nothing to compile")
    from examples import headline_seq2seq

    return headline_seq2seq


def test_descriptions_of_any_length_are_learned(tmp_path: Path) -> None:
    """The first two batches have the same width, and a later one another."""
    from examples import headline_seq2seq as example

    titles, descriptions = (texts[:24] for texts in example.quick_pairs())
    descriptions = [*(" ".join([text] * 9) for text in descriptions[:16]), *descriptions[16:]]
    options = dataclasses.replace(example.QUICK, batch_size=8, epochs=1, longest_source=48)
    vocabulary = example.Vocabulary(titles, descriptions, options)
    pairs = example.Pairs.make(titles, descriptions, vocabulary, options)
    batches = pairs.batches(options, shuffle=False)
    widths = [batches[i][0]["source"].shape[1] for i in range(len(batches))]
    assert widths[0] == widths[1] > widths[2]
    network = example.build(vocabulary, options)
    history = example.fit(network, vocabulary, pairs, pairs, options, tmp_path, resume=False)
    assert np.isfinite(history[0]["validation_loss"])


def common(first: list[str], second: list[str]) -> int:
    """The longest common subsequence by trying all of them."""
    of_second = {
        picked for size in range(len(second) + 1) for picked in itertools.combinations(second, size)
    }
    return max(
        size
        for size in range(len(first) + 1)
        for picked in itertools.combinations(first, size)
        if picked in of_second
    )


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS)
def test_rouge_l_is_what_trying_everything_gives(
    example: Any, written: list[str], reference: list[str]
) -> None:
    shared = common(written, reference)
    assert example.longest_common_subsequence(written, reference) == shared
    if shared:
        precision, recall = shared / len(written), shared / len(reference)
        expected = 2 * precision * recall / (precision + recall)
    else:
        expected = 0.0
    assert example.rouge_l(written, reference) == pytest.approx(expected)


def test_a_word_of_the_description_alone_can_be_written(example: Any) -> None:
    titles, descriptions = ["Rain in Elm"] * 3, ["Rain fell in Elm, it rained"] * 3
    vocabulary = example.Vocabulary(titles, descriptions, example.QUICK)
    pairs = example.Pairs.make(
        ["Zork fell"], ["Zork fell in Quux, Zork said"], vocabulary, example.QUICK
    )
    size = len(vocabulary)
    source = pairs.source_ids[0, :6].tolist()
    assert (source[0], source[3], source[4], source[5]) == (size, size + 1, size, size + 2)
    fell = source[1]
    assert vocabulary.words[fell] == "fell"
    assert fell >= vocabulary.generated, "no title has it: it is read, and copied, alone"
    assert pairs.headline_ids[0].tolist()[:3] == [size, fell, example.END]
    batch, target = pairs.batches(example.QUICK, shuffle=False)[0]
    assert batch["previous"][0].tolist()[:4] == [example.START, size, fell, example.PADDING]
    np.testing.assert_array_equal(target, pairs.headline_ids)


def test_training_probabilities_are_those_that_writing_sees(example: Any) -> None:
    """One call over a known headline, and word by word with the states handed on."""
    options = example.QUICK
    titles, descriptions = example.quick_pairs()
    vocabulary = example.Vocabulary(titles, descriptions, options)
    network = example.build(vocabulary, options)
    pairs = example.Pairs.make(titles[:3], descriptions[:3], vocabulary, options)
    batch, target = pairs.batches(options, shuffle=False)[0]
    together = network.train.predict_on_batch(batch)
    states, state = network.read.predict_on_batch(batch["source"])
    for i in range(target.shape[1]):
        generated, share, weights, state = network.step.predict_on_batch(
            [batch["source"], states, batch["previous"][:, i : i + 1], state]
        )
        for row, word in enumerate(target[:, i]):
            known = np.exp(generated[row, 0, word]) if word < vocabulary.generated else 0.0
            copied = weights[row, 0][batch["source"][row] == word].sum()
            expected = share[row, 0] * known + (1 - share[row, 0]) * copied
            assert np.exp(together[row, i]) == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(weights[:, 0].sum(axis=-1), 1, atol=1e-5)


def test_it_learns_to_write_and_goes_on_where_it_was_killed(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    example.main(["--quick", "--output", str(whole)])
    results = json.loads((whole / "results.json").read_text())
    test = results["test"]
    assert test["network"] > 0.9, "five templates are learned by heart"
    assert test["network"] > test["lead_words"] + 0.2
    with (whole / "headlines.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == test["rows"]
    # Recomputed from the file: the figure is of what was written.
    scores = [example.rouge_l(row["written"].split(), row["title"].split()) for row in rows]
    assert np.mean(scores) == pytest.approx(test["network"])
    assert (whole / "alignment.png").read_bytes().startswith(b"\x89PNG")

    save = example.keras.Model.save_weights

    def killed(model: Any, path: Path) -> None:
        if "epoch-3" in str(path):
            raise KeyboardInterrupt
        save(model, path)

    with monkeypatch.context() as patch:
        patch.setattr(example.keras.Model, "save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            example.main(["--quick", "--output", str(broken)])
    example.main(["--quick", "--output", str(broken), "--resume"])
    again = json.loads((broken / "results.json").read_text())
    assert again["test"] == pytest.approx(test)
    history, expected = (
        json.loads((path / "run.json").read_text())["history"] for path in (broken, whole)
    )
    for row, other in zip(history, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    with pytest.raises(example.InputError, match="other settings"):
        example.main(["--quick", "--output", str(whole), "--resume", "--seed", "5"])
    pairs = example.quick_pairs()
    renamed = [[text.replace("bridge", "tunnel") for text in texts] for texts in pairs]
    with monkeypatch.context() as patch:  # as many words, of which one is another
        patch.setattr(example, "quick_pairs", lambda: renamed)
        with pytest.raises(example.InputError, match="other rows, and so other words"):
            example.main(["--quick", "--output", str(whole), "--resume"])
    with pytest.raises(example.InputError, match="--text is empty"):
        example.main(["--quick", "--output", str(whole), "--text", " "])
    with pytest.raises(example.InputError, match="no finished run"):
        example.main(["--quick", "--output", str(tmp_path / "nowhere"), "--text", "A probe"])
