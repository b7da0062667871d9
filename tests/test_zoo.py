"""Every entry of the zoo through one harness, on the backend at hand.

The large ones run with their true widths but one block and a part of the vocabulary; whole, they
are slow tests.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_transformer
from conftest import HARD_TEXTS, SENTENCES

import keras_agnews
from keras_agnews import bundle, records, registry

pytestmark = pytest.mark.backend

ENTRIES = keras_agnews.list_models()
# Wide blocks are slow by themselves, and of the same class as the narrow ones'.
WIDE = {"bert-base", "bert-large", "distilbert-base"}
# No backend does otherwise to minilm-L6 than to small-bert-L4.
MARKS = dict.fromkeys(WIDE, pytest.mark.slow) | {"minilm-L6": pytest.mark.once}
FAST_ENTRIES = [pytest.param(name, marks=MARKS.get(name, ())) for name in ENTRIES]
# Bytes that a bundle may take, beside a small one for what has its weights on a hub.
MOST_BYTES = {"tiny-transformer": 1.6e6, "gru-attention": 3e6, "small-bert-L4": 10e6}
SHIPPED = sorted(
    name for name in ENTRIES if (Path(registry.find(name)) / "model.safetensors").exists()
)
TEXTS = [text for text, _ in SENTENCES]
LABELS = [label for _, label in SENTENCES]


def small(name: str) -> Any:
    """The entry with random weights, small enough for a fast test."""
    from keras_agnews.classifier import TextClassifier
    from keras_agnews.layers import weights_follow
    from keras_agnews.models import initial_value

    directory = registry.find(name)
    assert directory is not None
    description = bundle.read(directory)
    vocabulary = bundle.read_tokenizer(directory, description).vocabulary[:4_000]
    config = dataclasses.replace(description.config, layers=1, vocabulary_size=len(vocabulary))
    description = dataclasses.replace(description, config=config, weights=None)
    # Drawn by NumPy: JAX takes seconds to compile what Keras draws with.
    with weights_follow():
        classifier = TextClassifier(description, description.make_tokenizer(vocabulary))
    rng = np.random.default_rng(0)
    for variable in classifier.model.weights:
        shape = tuple(variable.shape)
        if variable.path.endswith("recurrent_kernel"):  # orthogonal, as Keras draws it
            value = np.linalg.qr(np.random.standard_normal(shape).T)[0].T
        else:
            value = initial_value(config, shape)
        if variable.path.endswith("/gamma"):
            value = np.ones_like(value)
        # Biases and norms away from their initial values, so that a lost one is seen.
        noise = (
            rng.normal(0, 0.2, value.shape)
            if value.ndim == 1 or variable.path.endswith("/bias")
            else 0
        )
        variable.assign((value + noise).astype("float32"))
    classifier.compile_default()
    return classifier


@pytest.fixture(scope="module")
def models() -> Callable[[str], Any]:
    cache: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in cache:
            cache[name] = small(name)
        return cache[name]

    return get


def arrays(classifier: Any) -> dict[str, np.ndarray]:
    import keras

    return {v.path: keras.ops.convert_to_numpy(v.value) for v in classifier.model.weights}


def logits_of(classifier: Any, texts: list[str], length: int | None = None) -> np.ndarray:
    """Logits of texts padded to `length`, or one by one, each as long as it is.

    Operation by operation: JAX compiles each for each shape, and TensorFlow walks through the
    positions of a GRU, so what has one length goes at once.
    """
    import keras

    rows = []
    for batch in [texts] if length else [[text] for text in texts]:
        ids = classifier.tokenizer(batch, padding=length or True)["input_ids"]
        inputs = {name: np.zeros_like(ids) for name in classifier.model.input}
        inputs["input_word_ids"] = ids
        rows.append(keras.ops.convert_to_numpy(classifier.model(inputs)))
    return np.concatenate(rows)


def test_the_zoo_has_its_entries() -> None:
    assert {"tiny-transformer", "gru-attention", "small-bert-L4"} == {*SHIPPED}
    assert {"small-bert-L4", "minilm-L6", "bert-base"} <= {*ENTRIES}


def test_what_is_shipped_is_small() -> None:
    """Whole bundles, vocabulary and card included; a difference to a base where there is one."""
    for name in ENTRIES:
        directory = registry.find(name)
        assert directory is not None
        size = sum(path.stat().st_size for path in directory.iterdir())
        pin = bundle.read(directory).weights
        assert pin is not None
        if pin.delta is not None:
            assert (directory / pin.delta).stat().st_size <= 3e6
        assert size <= MOST_BYTES.get(name, 3.5e6), name
        assert not list(directory.glob("*checkpoint*")), "what only a run has"


@pytest.mark.parametrize("name", ENTRIES)
def test_built_variables_are_the_described_ones(name: str, models: Any) -> None:
    classifier = models(name)
    built = {v.path: tuple(v.shape) for v in classifier.model.weights}
    assert built == classifier.description.variables()
    assert classifier.model.count_params() == classifier.description.parameters


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "bert-large" else n for n in ENTRIES],
)
def test_forward_is_the_float64_reference(name: str, models: Any) -> None:
    classifier = models(name)
    weights = arrays(classifier)
    texts = [text for text in [*TEXTS[:3], *HARD_TEXTS] if classifier.tokenizer.encode(text)]
    expected = [
        reference_transformer.logits(
            classifier.description.config, weights, classifier.tokenizer.encode(text)
        )
        for text in texts[:8]
    ]
    assert max(len(classifier.tokenizer.encode(text)) for text in texts[:8]) <= 32
    np.testing.assert_allclose(logits_of(classifier, texts[:8], 32), expected, atol=1e-4)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_give_the_golden_answers(name: str) -> None:
    classifier = keras_agnews.load(name)
    golden = np.load(reference_transformer.GOLDEN / f"{name}.npz")["logits"]
    answers = logits_of(classifier, TEXTS + HARD_TEXTS, classifier.max_length)
    known = np.isfinite(golden).all(axis=1)
    assert known.sum() >= len(TEXTS)
    np.testing.assert_allclose(answers[known], golden[known], atol=1e-4)
    assert [p.label for p in classifier.classify(TEXTS)] == LABELS


@pytest.mark.once
def test_each_trained_entry_can_be_made_again_from_what_it_records() -> None:
    """Whatever stands in the zoo by then: nothing that it learned of or started from is itself."""
    from keras_agnews import runs

    trained = {name: bundle.read(registry.find(name)) for name in ENTRIES}
    trained = {name: one for name, one in trained.items() if "rows" in one.recipe}
    assert {"minilm-L6", *SHIPPED} <= {*trained}
    for name, description in trained.items():
        plan = runs.recorded_plan(description, {})
        assert name not in (plan.start, *plan.teachers)
        assert len(plan.teachers) == len(records.teachers(description.recipe)) > 0


@pytest.mark.parametrize("name", FAST_ENTRIES)
def test_answers_do_not_depend_on_padding_batch_or_order(name: str, models: Any) -> None:
    classifier = models(name)
    texts = TEXTS + HARD_TEXTS
    alone = np.concatenate([classifier.predict(text) for text in texts])
    together = classifier.predict(texts)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(classifier.predict(texts[::-1])[::-1], alone, atol=1e-5)
    np.testing.assert_allclose(classifier.predict(texts, batch_size=3), alone, atol=1e-5)
    np.testing.assert_allclose(
        logits_of(classifier, TEXTS[:2]), logits_of(classifier, TEXTS[:2], 128), atol=1e-5
    )
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param([name for name in ENTRIES if name not in WIDE], id="others"),
        pytest.param(sorted(WIDE), id="wide", marks=pytest.mark.slow),
    ],
)
def test_round_trips_in_a_fresh_process(
    names: list[str], models: Any, fresh: Any, tmp_path: Path
) -> None:
    expected = {}
    for name in names:
        classifier = models(name)
        classifier.save(tmp_path / f"{name}.keras")
        classifier.save_bundle(tmp_path / name)
        expected[name] = classifier.predict(TEXTS + HARD_TEXTS).tolist()
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS + HARD_TEXTS))
    code = """
import json, sys, pathlib
import keras_agnews
root = pathlib.Path(sys.argv[1])
texts = json.loads((root / "texts.json").read_text())
answers = {}
for path in sorted(root.glob("*.keras")):
    import keras
    loaded = keras.saving.load_model(path)
    again = keras_agnews.load(root / path.stem)
    assert type(loaded) is type(again) is keras_agnews.TextClassifier
    assert loaded.optimizer is not None and loaded.labels == again.labels
    answers[path.stem] = [loaded.predict(texts).tolist(), again.predict(texts).tolist()]
print("\\n" + json.dumps(answers))
"""
    answers = json.loads(fresh(code, str(tmp_path)).strip().splitlines()[-1])
    for name in names:
        for answer in answers[name]:
            np.testing.assert_allclose(answer, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", FAST_ENTRIES)
def test_fit_lowers_the_loss(name: str) -> None:
    import keras

    keras.utils.set_random_seed(1)
    classifier = small(name)
    # Post-norm transformers want a small step, and the wider, the smaller.
    classifier.compile_default(1e-2 / max(1, classifier.description.config.hidden_size // 32))
    before = classifier.evaluate(TEXTS, LABELS, verbose=0)[0]
    history = classifier.fit(TEXTS, LABELS, epochs=15, batch_size=8, verbose=0, seed=1)
    after = classifier.evaluate(TEXTS, LABELS, verbose=0)[0]
    assert after < 0.8 * before
    assert len(history.history["loss"]) == 15


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_whole_entry(name: str) -> None:
    classifier = keras_agnews.load(name, weights=None)
    built = {v.path: tuple(v.shape) for v in classifier.model.weights}
    assert built == classifier.description.variables()
    probabilities = classifier.predict(TEXTS[:2])
    np.testing.assert_allclose(probabilities, classifier.predict(TEXTS[1::-1])[::-1], atol=1e-5)
    np.testing.assert_allclose(probabilities[1:], classifier.predict(TEXTS[1]), atol=1e-5)


def test_a_new_head_is_said_aloud() -> None:
    with pytest.warns(UserWarning, match=r"logits/bias, logits/kernel are new and untrained"):
        classifier = keras_agnews.load("tiny-transformer", labels=["good", "bad", "ugly"])
    assert classifier.predict(TEXTS[:2]).shape == (2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_agnews.load("tiny-transformer")
        keras_agnews.load("tiny-transformer", weights=None)
