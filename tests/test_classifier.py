"""`TextClassifier` and `load`, as their users hold them."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HARD_TEXTS, SENTENCES
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_agnews
from keras_agnews import BundleError, InputError, NotFoundError

pytestmark = pytest.mark.backend

TEXTS = [text for text, _ in SENTENCES]
LABELS = [label for _, label in SENTENCES]
NAMES = ("World", "Sports", "Business", "Sci/Tech")


@pytest.fixture(scope="module")
def clf() -> Any:
    return keras_agnews.load("tiny-transformer")


def test_predict_takes_what_users_have(clf: Any) -> None:
    expected = clf.predict(TEXTS)
    assert expected.shape == (len(TEXTS), 4)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)
    for form in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object), iter(TEXTS)):
        np.testing.assert_allclose(clf.predict(form), expected, atol=1e-6)
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(TEXTS, index=range(100, 100 + len(TEXTS)))
    np.testing.assert_allclose(clf.predict(series), expected, atol=1e-6)
    with pytest.raises(InputError, match=r"one dimension, not 2; of a table pass the column"):
        clf.predict(pandas.DataFrame({"text": TEXTS}))
    np.testing.assert_allclose(clf.predict(TEXTS[0]), expected[:1], atol=1e-5)
    assert clf.predict([]).shape == (0, 4)
    assert clf.classify([]) == []


def test_any_number_of_texts_keeps_its_order(clf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than go through the tokenizer at once, and more batches than may wait."""
    from keras_agnews import classifier

    texts = [" ".join([text] * (i % 5 + 1)) for i, text in enumerate(TEXTS * 8)]
    texts.insert(5, "word " * 300)
    expected = clf.predict(texts)
    monkeypatch.setattr(classifier, "WINDOW", 7)
    monkeypatch.setattr(classifier, "_AHEAD", 2)
    found = clf.classify(texts, batch_size=2)
    assert [i for i, answer in enumerate(found) if answer.truncated] == [5]
    scores = [[answer.scores[name] for name in NAMES] for answer in found]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_classify_gives_labels_and_scores(clf: Any) -> None:
    one = clf.classify(TEXTS[0])
    many = clf.classify(TEXTS)
    assert isinstance(one, keras_agnews.Prediction)
    assert [p.label for p in many] == LABELS
    for prediction in many:
        assert {*prediction.scores} == {*NAMES}
        assert prediction.score == max(prediction.scores.values())
        assert prediction.scores[prediction.label] == prediction.score
        assert not prediction.truncated
    assert clf.classify("word " * 257).truncated
    assert not clf.classify("word " * 256).truncated


def test_hard_texts_have_answers_alone_as_in_a_batch(clf: Any) -> None:
    texts = [*HARD_TEXTS, "word " * 200_000]
    together = clf.predict(texts)
    assert np.isfinite(together).all()
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(clf.predict(text)[0], row, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=6))
def test_any_strings_have_answers(clf: Any, texts: list[str]) -> None:
    answers = clf.predict(texts)
    assert answers.shape == (len(texts), 4)
    assert np.isfinite(answers).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "texts must be a str or a list of str, not NoneType"),
        (3, "not int"),
        (b"bytes", "not bytes"),
        ({"a": 1}, "not dict"),
        (["good", None], r"texts\[1\] is NoneType, not str: a missing value; leave it out"),
        (["good", float("nan")], r"texts\[1\] is float, not str: a missing value"),
        (["good", "fine", 3.5], r"texts\[2\] is float, not str$"),
        (["good", b"x"], r"texts\[1\] is bytes"),
        ([["nested"]], r"texts\[0\] is list"),
        ([np.array(["a", "b"])], r"texts\[0\] is ndarray, not str$"),
        (np.array([["a", "b"]]), "one dimension, not 2"),
        (np.array([1, 2]), r"texts\[0\] is int"),
        ({"one", "two"}, "not a set, which has no order"),
    ],
)
def test_bad_texts_are_named(clf: Any, texts: Any, message: str) -> None:
    for method in (clf.predict, clf.classify):
        with pytest.raises(InputError, match=message):
            method(texts)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels are missing"),
        (LABELS[:-1], "7,?.* but there are 8 texts"),
        ([*LABELS[:-1], "Weather"], r"labels\[7\] is 'Weather', not one of World"),
        ([0, 1, 2, 3, 0, 1, 2, 4], r"labels\[7\] is 4, not in 0 to 3"),
        ([0, 1, -1, 3, 0, 1, 2, 3], r"labels\[2\] is -1"),
        (np.eye(4)[[0] * 8], "shape"),
        ({*LABELS}, "shape"),
        (np.array([0.0, *[1.0] * 7]), r"labels\[0\] is 0.0, .*; make ints of them"),
        ([*LABELS[:7], None], r"labels\[7\] is None, .*; leave out the rows that have none"),
        ([*range(4), float("nan"), 1, 2, 3], r"labels\[0\] is 0.0, .*; leave out the rows"),
        ([["World"], *[["World", "Sports"]] * 7], "one int or one name for each text"),
    ],
)
def test_bad_labels_are_named(clf: Any, labels: Any, message: str) -> None:
    for method in (clf.fit, clf.evaluate):
        with pytest.raises(InputError, match=message):
            method(TEXTS, labels, verbose=0)


def test_fit_and_evaluate_take_names_and_numbers(clf: Any) -> None:
    numbers = [NAMES.index(label) for label in LABELS]
    by_name = clf.evaluate(TEXTS, LABELS, verbose=0)
    by_number = clf.evaluate(TEXTS, np.array(numbers), verbose=0, return_dict=True)
    assert by_name[1] == by_number["accuracy"] == 1.0
    powers = clf.predict(TEXTS) ** clf.temperature  # which has no part in the loss
    probabilities = (powers / powers.sum(axis=1, keepdims=True))[np.arange(8), numbers]
    assert by_name[0] == pytest.approx(-np.log(probabilities).mean(), abs=1e-4)


def test_labels_come_in_many_forms(clf: Any) -> None:
    numbers = [NAMES.index(label) for label in LABELS]
    forms: list[Any] = [numbers, LABELS, tuple(LABELS), np.array(LABELS), np.uint8(numbers)]
    forms += [np.array(numbers, object), iter(LABELS), dict(enumerate(LABELS)).values()]
    for form in forms:
        np.testing.assert_array_equal(clf.label_ids(form, 8), numbers)


@pytest.mark.once
def test_ints_are_not_taken_for_positions_among_names_that_are_numbers() -> None:
    stars = keras_agnews.load("tiny-transformer", weights=None, labels=["1", "2", "3"])
    with pytest.raises(InputError, match=r"so are the model's names, 1, 2, 3: pass them as"):
        stars.label_ids([1, 2], 2)
    np.testing.assert_array_equal(stars.label_ids(["1", "3"], 2), [0, 2])
    with pytest.raises(InputError, match=r"class_weight .* ints"):
        stars.fit(["a", "b"], ["1", "3"], class_weight={1: 2.0})
    # They go on where a part of the rows is held out.
    stars.fit(["a", "b"] * 4, ["1", "3"] * 4, validation_split=0.5, batch_size=8, verbose=0)
    digits = keras_agnews.load("tiny-transformer", weights=None, labels=[*"0123"])
    np.testing.assert_array_equal(digits.label_ids([3, 0], 2), [3, 0])


@pytest.mark.once
def test_arguments_that_cannot_be_used_are_named(clf: Any) -> None:
    for wrong, message in (
        ({"class_weight": [1.0] * 4}, "class_weight must be a dict"),
        ({"sample_weight": ["a"] * 8}, "sample_weight must be numbers"),
        ({"sample_weight": 0.5}, "sample_weight must be one number a text"),
        ({"sample_weight": np.ones(8), "class_weight": {"World": 2.0}}, "product of the two"),
        ({"seed": -1}, "seed must be 0 or a positive integer, not -1"),
        ({"batch_size": 0}, "batch_size"),
        ({"epoch": 2}, r"fit\(\) knows no epoch"),
    ):
        before = clf.description
        with pytest.raises(InputError, match=message):
            clf.fit(TEXTS, LABELS, verbose=0, **wrong)
        assert clf.description is before, "it has not been trained"
    with pytest.raises(InputError, match="batch_size"):
        clf.evaluate(TEXTS, LABELS, batch_size=0, verbose=0)
    for labels in ("World", {"good", "bad"}, 3):
        with pytest.raises(InputError, match="labels must be a list of names"):
            keras_agnews.load("tiny-transformer", labels=labels)


def test_weights_that_are_no_numbers_give_no_answers() -> None:
    model = keras_agnews.load("tiny-transformer")
    model.layer("logits").bias.assign([np.nan, 0.0, 0.0, 0.0])
    for method in (model.predict, model.classify):
        with pytest.raises(InputError, match="tiny-transformer gives answers that are not finite"):
            method(TEXTS)


@pytest.mark.parametrize("name", ["modèle", "_model", ".x"])
def test_any_name_can_be_trained_and_measured(clf: Any, name: str) -> None:
    model = type(clf)(dataclasses.replace(clf.description, name=name), clf.tokenizer)
    model.compile_default()
    assert np.isfinite(model.evaluate(TEXTS, LABELS, verbose=0)).all()


def test_fit_validates_and_resets_the_temperature() -> None:
    model = keras_agnews.load("tiny-transformer", weights=None)
    model.temperature = 2.0
    # Batches of one shape, which is that of other tests: JAX takes seconds to compile a step.
    history = model.fit(
        TEXTS, LABELS, validation_data=(TEXTS, LABELS), epochs=2, batch_size=8, verbose=0
    )
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= {*history.history}
    assert model.temperature == 1.0
    split = model.fit(TEXTS * 2, LABELS * 2, validation_split=0.5, batch_size=8, verbose=0).history
    assert "val_loss" in split
    with pytest.raises(InputError, match="validation_data has no text"):
        model.fit(TEXTS, LABELS, validation_data=([], []), verbose=0)


def test_fit_loses_nothing_in_silence(clf: Any) -> None:
    seen: list[int] = []

    class Counting(type(clf)):  # type: ignore[misc]
        def dataset(self, texts: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(len(texts))
            raise InterruptedError

    model = Counting(clf.description, clf.tokenizer)
    with pytest.raises(InterruptedError):
        model.fit(TEXTS, LABELS, validation_data=(TEXTS, LABELS), validation_split=0.5)
    assert seen == [len(TEXTS)]
    ready = clf.dataset(TEXTS, clf.label_ids(LABELS, len(TEXTS)))
    weights = np.ones(len(TEXTS))
    both: list[dict[str, Any]] = [{"y": LABELS}, {"sample_weight": weights}, {"batch_size": 8}]
    for options in (*both, {"validation_split": 0.5}, {"shuffle": False}, {"seed": 0}):
        with pytest.raises(InputError, match=f"{next(iter(options))} .* dataset"):
            clf.fit(ready, **options)
    for options in both:
        with pytest.raises(InputError, match=f"{next(iter(options))} .* dataset"):
            clf.evaluate(ready, **options)


def test_every_weight_of_a_row_or_a_class_counts() -> None:
    model = keras_agnews.load("tiny-transformer")
    options: dict[str, Any] = {"batch_size": 8, "verbose": 0}
    nothing = np.zeros(len(TEXTS))
    held = (TEXTS, LABELS, nothing)
    history = model.fit(TEXTS, LABELS, validation_data=held, sample_weight=nothing, **options)
    assert history.history["loss"] == history.history["val_loss"] == [0.0]
    half = np.repeat([1.0, 0.0], len(TEXTS))
    history = model.fit(
        TEXTS * 2, LABELS * 2, validation_split=0.5, sample_weight=half, **options
    ).history
    assert history["loss"][0] > 0 == history["val_loss"][0]
    for weights in (dict.fromkeys(NAMES, 0.0), dict.fromkeys(range(4), 0.0)):
        assert model.fit(TEXTS, LABELS, class_weight=weights, **options).history["loss"] == [0.0]
    with pytest.raises(InputError, match=r"class_weight .* 'Weather', not one of World"):
        model.fit(TEXTS, LABELS, class_weight={"Weather": 1.0}, **options)
    # Those that are left out weigh 1.
    some = model.fit(TEXTS[2:], LABELS[2:], class_weight={"World": 0.0}, **options).history["loss"]
    assert some[0] > 0


def test_what_has_been_trained_anew_does_not_tell_of_its_old_weights(tmp_path: Path) -> None:
    shipped = keras_agnews.load("tiny-transformer")
    assert shipped.description.recipe["rows"] > 50_000
    shipped.save_bundle(tmp_path / "copy")
    assert keras_agnews.load(tmp_path / "copy").description.recipe == shipped.description.recipe
    adopted = keras_agnews.load("tiny-transformer", weights=tmp_path / "copy")
    assert adopted.description.recipe == shipped.description.recipe
    shipped.fit(TEXTS, LABELS, batch_size=8, verbose=0)
    random = keras_agnews.load("tiny-transformer", weights=None)
    with pytest.warns(UserWarning, match="new and untrained"):
        other = keras_agnews.load("tiny-transformer", labels=["good", "bad"])
    for model in (shipped, random, other):
        recipe = model.description.recipe
        assert not {"rows", "data", "minutes", "teacher", "seed"} & recipe.keys()
        assert recipe["learning_rate"] == 3e-3  # which suits the architecture
        assert model.description.results == ()
    shipped.save_bundle(tmp_path / "copy")
    card = (tmp_path / "copy" / "README.md").read_text("utf-8")
    assert "120,000" not in card
    assert "minilm" not in card


def test_a_fit_that_takes_no_step_changes_nothing() -> None:
    clf = keras_agnews.load("tiny-transformer")
    before, answers = clf.description, clf.predict(TEXTS)
    clf.fit(TEXTS, LABELS, epochs=0, verbose=0)
    with pytest.raises(AttributeError):
        clf.fit(TEXTS, LABELS, callbacks=[5], verbose=0)
    assert clf.description == before
    np.testing.assert_array_equal(clf.predict(TEXTS), answers)
    clf.fit(TEXTS, LABELS, verbose=0)
    assert (clf.description.temperature, clf.description.results) == (1.0, ())


def test_validation_has_batches_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clf, sizes = keras_agnews.load("tiny-transformer", weights=None), []
    dataset = type(clf).dataset

    def seen(self: Any, texts: Any, labels: Any, size: int, *rest: Any, **options: Any) -> Any:
        sizes.append(size)
        return dataset(self, texts, labels, size, *rest, **options)

    monkeypatch.setattr(type(clf), "dataset", seen)
    options = {"validation_data": (TEXTS, LABELS), "verbose": 0}
    clf.fit(TEXTS, LABELS, batch_size=4, validation_batch_size=2, **options)
    clf.fit(TEXTS, LABELS, batch_size=4, **options)
    assert sizes == [4, 2, 4, 4]
    with pytest.raises(InputError, match="batch_size"):
        clf.fit(TEXTS, LABELS, validation_batch_size=0, **options)


@pytest.mark.once
def test_weights_with_gaps_are_named(clf: Any) -> None:
    ones = [1.0] * len(TEXTS)
    for gap in (None, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"sample_weight\[2\] is (nan|inf), not a finite"):
            clf.fit(TEXTS, LABELS, sample_weight=[*ones[:2], gap, *ones[3:]], verbose=0)
        with pytest.raises(InputError, match=r"class_weight\['World'\] is (None|nan|inf), not"):
            clf.fit(TEXTS, LABELS, class_weight={"World": gap}, verbose=0)
    with pytest.raises(InputError, match=r"sample_weight\[0\]"):
        clf.evaluate(TEXTS, LABELS, sample_weight=[float("nan"), *ones[1:]], verbose=0)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*new and untrained")
def test_of_a_single_class_every_answer_is_right() -> None:
    clf = keras_agnews.load("tiny-transformer", labels=["only"])
    assert clf.evaluate(TEXTS, [0] * len(TEXTS), verbose=0)[1] == 1.0


def test_the_description_keeps_to_what_the_model_is(clf: Any) -> None:
    before = clf.description
    for value in (0, -1.0, float("nan"), float("inf"), 200):
        with pytest.raises(InputError, match=r"temperature is .*, not a"):
            clf.temperature = value
    for wrong in (None, "warm", [1.0, 2.0]):
        with pytest.raises(InputError, match=r"temperature .*: it must be a number"):
            clf.temperature = wrong
    for changes in ({"colour": "red"}, {"results": None}, {"weights": {"file": "x"}}):
        with pytest.raises(InputError, match=rf"describe\({min(changes)}\)"):
            clf.describe(**changes)
    with pytest.raises(InputError, match="max_length is built into the model"):
        clf.describe(max_length=4)
    for labels in (("A", "B"), "abcd", 4, None):
        with pytest.raises(InputError, match=r"labels must be a list of 4 names"):
            clf.describe(labels=labels)
    with pytest.raises(InputError, match="labels must differ"):
        clf.describe(labels=["A", "B", "C", "A"])
    with pytest.raises(InputError, match="results must be a list"):
        clf.describe(results="good")
    score = {"metric": "accuracy", "value": np.float32(0.5)}
    for what, value, message in (
        ("results", [score], r"results\[0\].value is a float32, which JSON has not"),
        ("recipe", {"x": {1, 2}}, "recipe.x is a set, which JSON has not"),
        ("recipe", {1: 2}, "the key 'recipe.1' is a int, not a str"),
    ):
        with pytest.raises(InputError, match=message):
            clf.describe(**{what: value})
    assert clf.description == before
    clf.describe(labels=["A", "B", "C", "D"])
    assert clf.labels == ("A", "B", "C", "D")
    clf.describe(labels=before.labels)
    assert clf.description == before


def test_low_rank_updates_are_saved_and_integers_are_refused(tmp_path: Path) -> None:
    import keras

    model = keras_agnews.load("tiny-transformer")
    layer = model.encoder.blocks[0].feed_forward
    layer.enable_lora(2, b_initializer=keras.initializers.RandomNormal(stddev=0.5, seed=1))
    changed = model.predict(TEXTS)
    assert np.abs(changed - keras_agnews.load("tiny-transformer").predict(TEXTS)).max() > 0.01
    model.save_bundle(tmp_path / "model")
    np.testing.assert_allclose(
        keras_agnews.load(tmp_path / "model").predict(TEXTS), changed, atol=1e-5
    )
    model = keras_agnews.load("tiny-transformer")
    model.model.quantize("int8")
    for write in (
        lambda: model.save(tmp_path / "model.keras"),
        lambda: model.save_bundle(tmp_path / "integers"),
        lambda: model.export(tmp_path / "model.onnx"),
    ):
        with pytest.raises(InputError, match=r"quantized \(int8\): save or export it first"):
            write()
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_low_rank_updates_that_have_learned_nothing_change_nothing() -> None:
    """Keras merges in the precision that a layer computes in."""
    from keras_agnews.lora import LowRankCopy
    from keras_agnews.recipes import make_recipe

    model = keras_agnews.load("tiny-transformer")
    before = model.arrays()
    settings = make_recipe(model, "lora", delta_rank=2, mixed_precision=True)
    LowRankCopy(model, settings).merge()
    rough = keras_agnews.load("tiny-transformer", mixed_precision=True)
    rough.encoder.blocks[0].feed_forward.enable_lora(2)
    rough.encoder.embedding.tokens.enable_lora(2)
    for after in (model.arrays(), rough.arrays()):
        assert after.keys() == before.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_a_home_directory_is_found_by_its_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clf: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    clf.save_bundle("~/model")
    clf.save("~/model.keras")
    clf.export("~/model.onnx")
    made = {path.name for path in tmp_path.iterdir()}
    assert {"model", "model.keras", "model.onnx"} <= made
    np.testing.assert_array_equal(keras_agnews.load("~/model").predict(TEXTS), clf.predict(TEXTS))


def test_a_file_of_a_model_that_has_taken_no_step_has_no_state(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    import keras

    path = tmp_path / "new" / "model.keras"
    keras_agnews.load("tiny-transformer").save(path)
    assert path.stat().st_size < 3.5e6
    loaded = keras.saving.load_model(path)
    assert not [str(warning.message) for warning in recwarn if "optimizer" in str(warning.message)]
    loaded.fit(TEXTS, LABELS, batch_size=8, verbose=0)


def test_mixed_precision_is_kept_in_a_file(tmp_path: Path) -> None:
    import keras

    model = keras_agnews.load("tiny-transformer", mixed_precision=True)
    model.save(tmp_path / "rough.keras")
    loaded = keras.saving.load_model(tmp_path / "rough.keras")
    assert loaded.encoder.dtype_policy.name == "mixed_bfloat16"
    assert loaded.layer("logits").dtype_policy.name == "float32"
    np.testing.assert_array_equal(loaded.predict(TEXTS), model.predict(TEXTS))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_the_policy_of_a_file_counts_and_not_the_present_one(tmp_path: Path, policy: str) -> None:
    import keras

    before = keras.config.dtype_policy()
    others = {"float32": "mixed_bfloat16"}
    try:
        keras.config.set_dtype_policy(policy)
        model = keras_agnews.load("tiny-transformer")
        model.save(tmp_path / "m.keras")
        keras.config.set_dtype_policy(others.get(policy, "float32"))
        loaded = keras.saving.load_model(tmp_path / "m.keras")
    finally:
        keras.config.set_dtype_policy(before)
    assert loaded.encoder.blocks[0].attention.compute_dtype == model.encoder.compute_dtype
    assert loaded.encoder.dtype_policy.name == policy
    for one, other in zip(model.model.weights, loaded.model.weights, strict=True):
        assert (one.path, one.dtype) == (other.path, other.dtype)
    if policy == "mixed_float16" and keras.backend.backend() == "jax":
        return  # which has no attention in float16 on a processor
    np.testing.assert_array_equal(loaded.predict(TEXTS), model.predict(TEXTS))


def test_the_scaled_loss_of_half_precision_is_in_the_file(tmp_path: Path) -> None:
    import keras

    if keras.backend.backend() == "jax":
        pytest.skip("has no attention in float16 on a processor")
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_float16")
        model = keras_agnews.load("tiny-transformer")
    finally:
        keras.config.set_dtype_policy(before)
    model.fit(TEXTS, LABELS, batch_size=8, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded.optimizer) is type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    values = [[np.array(v) for v in x.optimizer.variables] for x in (model, loaded)]
    for one, other in zip(*values, strict=True):
        np.testing.assert_array_equal(one, other)


def test_frozen_layers_are_frozen_in_a_file_too(tmp_path: Path) -> None:
    import keras

    model = keras_agnews.load("tiny-transformer")
    model.encoder.trainable = False
    trained = [variable.path for variable in model.trainable_variables]
    model.fit(TEXTS, LABELS, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [variable.path for variable in loaded.trainable_variables] == trained
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 1


def test_temperature_divides_the_logits_once(clf: Any) -> None:
    before, fitted = clf.predict(TEXTS), clf.temperature
    clf.temperature = 2 * fitted
    try:
        after = clf.predict(TEXTS)
    finally:
        clf.temperature = fitted
    softened = np.sqrt(before) / np.sqrt(before).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after, softened, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        *("name", "object", "function", "list", "dict", "class", "divergence", "generalized"),
        *("any", "short"),
    ],
)
def test_a_loss_on_probabilities_is_refused(clf: Any, form: str) -> None:
    import keras

    loss = {
        "name": "sparse_categorical_crossentropy",
        "object": keras.losses.CategoricalCrossentropy(from_logits=False),
        "function": keras.losses.sparse_categorical_crossentropy,
        "list": ["sparse_categorical_crossentropy"],
        "dict": {"logits": "sparse_categorical_crossentropy"},
        "class": "SparseCategoricalCrossentropy",
        "divergence": keras.losses.KLDivergence(),
        "generalized": keras.losses.CategoricalGeneralizedCrossEntropy(),
        "any": "crossentropy",
        "short": "CE",
    }[form]
    with pytest.raises(InputError, match="from_logits=True"):
        clf.compile("adam", loss)


@pytest.mark.once
def test_losses_on_logits_are_taken() -> None:
    import keras

    model = keras_agnews.load("tiny-transformer")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(TEXTS, LABELS, verbose=0)
    # These take other targets than labels: a dataset's.
    for loss in (keras.losses.CategoricalCrossentropy(from_logits=True), "mse"):
        model.compile("adam", loss)
        for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
            # As many rows as classes, which NumPy's rules would spread over each other.
            with pytest.raises(InputError, match="does not take labels, one a text: compile with"):
                method(TEXTS[:4], LABELS[:4])
    model.compile("adam", lambda true, logits: keras.ops.mean(logits))
    model.fit(TEXTS, LABELS, verbose=0)


def test_eight_threads_get_the_same_answers(clf: Any) -> None:
    texts = (TEXTS + [t for t in HARD_TEXTS if len(t) < 1_000]) * 5
    expected = clf.predict(texts)
    answers: list[Any] = [None] * 8

    def work(i: int) -> None:
        rolled = texts[i:] + texts[:i]
        answers[i] = [np.roll(clf.predict(rolled), i, axis=0) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        assert answer is not None
        for probabilities in answer:
            np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_answers_follow_the_weights(clf: Any) -> None:
    """A compiled forward pass must not keep the weights of the day it was compiled."""
    model = keras_agnews.load("tiny-transformer")
    before = model.predict(TEXTS)
    model.fit(TEXTS, LABELS[::-1], epochs=3, verbose=0)
    after = model.predict(TEXTS)
    assert np.abs(after - before).max() > 1e-2
    ids = model.tokenizer(TEXTS)["input_ids"]
    import keras

    logits = keras.ops.convert_to_numpy(model.model({"input_word_ids": ids}))
    expected = np.exp(logits / model.temperature)
    np.testing.assert_allclose(after, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)


def test_word_dropout_replaces_words_and_no_other_tokens() -> None:
    model = keras_agnews.load("small-bert-L4")
    vocabulary = model.tokenizer.vocabulary
    start, end, unknown = map(vocabulary.index, ("[CLS]", "[SEP]", "[UNK]"))
    texts, labels = TEXTS * 20, np.zeros(len(TEXTS) * 20, np.int32)

    def ids(share: float, epoch: int) -> list[np.ndarray]:
        dataset = model.dataset(texts, labels, 8, word_dropout=share, seed=0)
        dataset.start_epoch(epoch)
        return [dataset[i][0]["input_word_ids"] for i in range(len(dataset))]

    plain, all_dropped = ids(0.0, 0), ids(1.0, 0)
    for before, after in zip(plain, all_dropped, strict=True):
        assert not (before == unknown).any()
        kept = np.isin(before, [0, start, end])
        np.testing.assert_array_equal(after, np.where(kept, before, unknown))
    words = sum(np.isin(batch, [0, start, end], invert=True).sum() for batch in plain)
    some, others = ids(0.3, 0), ids(0.3, 1)
    assert sum((batch == unknown).sum() for batch in some) / words == pytest.approx(0.3, abs=0.03)
    assert any((a != b).any() for a, b in zip(some, others, strict=True)), "drawn anew"


def test_answers_within_an_epoch_are_those_of_the_weights_so_far() -> None:
    import keras

    model = keras_agnews.load("tiny-transformer")
    answers = [model.predict(TEXTS)]

    def ask(batch: int, logs: Any) -> None:
        answers.append(model.predict(TEXTS))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=ask)
    model.fit(TEXTS * 2, LABELS * 2, batch_size=8, callbacks=[callback], verbose=0)
    assert len(answers) == 3
    np.testing.assert_array_equal(answers[-1], model.predict(TEXTS))
    assert all(np.abs(b - a).max() > 1e-4 for a, b in itertools.pairwise(answers))


def test_what_is_asked_and_saved_within_an_epoch_leaves_it_whole(tmp_path: Path) -> None:
    import keras

    model = keras_agnews.load("tiny-transformer")
    losses = []

    def ask(batch: int, logs: Any) -> None:
        losses.append(model.evaluate(TEXTS, LABELS, verbose=0)[0])
        model.save(tmp_path / f"{batch}.keras")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=ask)
    model.fit(TEXTS * 2, LABELS * 2, batch_size=8, callbacks=[callback], verbose=0)
    assert losses[1] < losses[0]
    saved = keras.saving.load_model(tmp_path / "1.keras")
    np.testing.assert_array_equal(saved.predict(TEXTS), model.predict(TEXTS))


def test_a_trained_classifier_is_let_go(clf: Any) -> None:
    model = keras_agnews.load("tiny-transformer")
    model.fit(TEXTS, LABELS, validation_data=(TEXTS, LABELS), verbose=0)
    model.evaluate(TEXTS, LABELS, verbose=0)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_one_batch_of_texts() -> None:
    model = keras_agnews.load("tiny-transformer")
    assert model.temperature != 1
    known = model.description
    weights = np.arange(len(TEXTS), dtype=np.float32)
    for weight in (None, weights):
        before = model.test_on_batch(TEXTS, LABELS, weight)
        expected = model.evaluate(TEXTS, LABELS, sample_weight=weight, verbose=0)
        np.testing.assert_allclose(before, expected, atol=1e-5)
    assert model.description == known
    ids = {"input_word_ids": model.tokenizer(TEXTS)["input_ids"]}
    numbers = model.label_ids(LABELS[::-1], len(TEXTS))  # other ones, to be learned
    start = model.test_on_batch(ids, numbers)[0]
    for batch in [(TEXTS, LABELS[::-1]), (ids, numbers)] * 10:
        model.train_on_batch(*batch)
        assert model.description == known.untrained()
    after = model.test_on_batch(TEXTS, LABELS[::-1])
    np.testing.assert_allclose(after, model.test_on_batch(ids, numbers), atol=1e-5)
    assert after[0] < 0.8 * start
    weights[0] = np.nan
    for method in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(InputError, match=r"sample_weight\[0\] is nan"):
            method(TEXTS, LABELS, weights)
        with pytest.raises(InputError, match="at least one text"):
            method([], [])


@pytest.mark.once
def test_weights_from_a_file_have_no_figures(tmp_path: Path) -> None:
    model = keras_agnews.load("tiny-transformer")
    assert model.description.results
    model.save_weights(tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
    assert (model.temperature, model.description.results) == (1.0, ())


@pytest.mark.once
def test_a_call_with_texts_names_what_takes_them(clf: Any) -> None:
    for texts in (TEXTS[0], TEXTS, tuple(TEXTS)):
        with pytest.raises(InputError, match=r"classify\(texts\)"):
            clf(texts)
    with pytest.raises(InputError, match=r"evaluate\(\) knows no epochs"):
        clf.evaluate(TEXTS, LABELS, epochs=2)


@pytest.mark.backend
def test_updates_may_gather_several_batches_and_keras_seed_counts() -> None:
    import keras

    answers = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        clf = keras_agnews.load("tiny-transformer")
        clf.compile(
            keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        before = clf.predict(TEXTS)
        clf.fit(TEXTS * 3, LABELS * 3, batch_size=4, verbose=0)
        answers.append(clf.predict(TEXTS))
        state = np.random.get_state()[2]
        clf.evaluate(TEXTS, LABELS, verbose=0)
        assert np.random.get_state()[2] == state, "only shuffling draws"
        assert np.abs(answers[-1] - before).max() > 0.01
    np.testing.assert_array_equal(*answers)


def test_inputs_of_other_forms_are_taken_or_told_the_remedy(clf: Any) -> None:
    import pyarrow as pa

    column = pa.chunked_array([TEXTS[:1], TEXTS[1:]])
    np.testing.assert_array_equal(clf.predict(column), clf.predict(TEXTS))
    with pytest.raises(InputError, match=r"texts\[0\] is tuple, not str: fit and evaluate take"):
        clf.fit(itertools.repeat((TEXTS, LABELS)), steps_per_epoch=2)
    for labels, remedy in (([[0]], r"labels.ravel\(\)"), ([[0, 1, 0, 0]], r"labels.argmax\(1\)")):
        with pytest.raises(InputError, match=f"but there are 1 texts: pass {remedy}"):
            clf.evaluate(["a"], labels)
    with pytest.raises(InputError, match=r"texts\[1\] is bytes, not str: decode it"):
        clf.predict(["a", b"b"])


@pytest.mark.once
def test_a_file_in_the_way_of_an_output_is_named(clf: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "m.keras").mkdir()
    pieces = keras_agnews.load("small-bert-L4")
    for write, path in (
        (clf.save, "file/m.keras"),
        (clf.save_bundle, "file"),
        (clf.save_bundle, "file/new"),
        (pieces.save_hugging_face, "file"),
        (clf.export, "file/m.onnx"),
    ):
        with pytest.raises(InputError, match=r"file is a file: give another output directory"):
            write(tmp_path / path)
    with pytest.raises(InputError, match=r"m\.keras is a directory"):
        clf.save(tmp_path / "m.keras")
    assert (tmp_path / "file").read_text() == "mine"


def test_features_are_what_the_head_sees(clf: Any) -> None:
    import keras

    features = clf.features(TEXTS)
    assert features.shape == (len(TEXTS), 32)
    ids = clf.tokenizer(TEXTS)["input_ids"]
    default = clf.encoder({"input_word_ids": ids})["default"]
    np.testing.assert_allclose(features, keras.ops.convert_to_numpy(default), atol=1e-5)


def test_load_errors_name_the_thing_and_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'tiny-transformer'"):
        keras_agnews.load("tiny-transfromer")
    with pytest.raises(NotFoundError, match="neither a model of the zoo nor a directory"):
        keras_agnews.load(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="neither a model of the zoo nor a directory"):
        keras_agnews.load("Oil prices soar to an all-time record " * 10)
    for wrong in (None, 5):
        with pytest.raises(InputError, match="a model is a name, a path or an address"):
            keras_agnews.load(wrong)
    file = tmp_path / "m.keras"
    file.write_text("")
    with pytest.raises(NotFoundError, match=r"keras\.saving\.load_model"):
        keras_agnews.load(file)
    with pytest.raises(BundleError, match=r"config\.json: no such file"):
        keras_agnews.load(tmp_path)
    with pytest.raises(NotFoundError, match="no pretrained base"):
        keras_agnews.load("tiny-transformer", weights="pretrained")
    with pytest.raises(InputError, match="labels must differ"):
        keras_agnews.load("tiny-transformer", labels=["one", "one"])
    with pytest.raises(InputError, match="max_length"):
        keras_agnews.load("tiny-transformer", max_length=257)


@pytest.mark.once
def test_max_length_and_labels_are_kept_in_a_saved_bundle(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="new and untrained"):
        model = keras_agnews.load("tiny-transformer", labels=["a", "b"], max_length=5)
    assert model.classify("one two three four five six").truncated
    model.save_bundle(tmp_path / "m")
    again = keras_agnews.load(tmp_path / "m")
    assert again.labels == ("a", "b")
    assert again.max_length == 5
    np.testing.assert_allclose(again.predict(TEXTS), model.predict(TEXTS), atol=1e-6)


def test_weights_of_another_model_are_refused_with_both_shapes(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tiny-transformer does not fit bert-base"):
        keras_agnews.load("bert-base", weights="tiny-transformer")


@pytest.mark.once
def test_float16_bundle_is_half_and_near(clf: Any, tmp_path: Path) -> None:
    clf.save_bundle(tmp_path / "half", dtype="float16")
    clf.save_bundle(tmp_path / "whole", dtype="float32")
    size = {d: (tmp_path / d / "model.safetensors").stat().st_size for d in ("half", "whole")}
    assert size["half"] < 0.51 * size["whole"]
    half = keras_agnews.load(tmp_path / "half")
    assert {str(w.dtype) for w in half.model.weights} == {"float32"}
    np.testing.assert_allclose(half.predict(TEXTS), clf.predict(TEXTS), atol=2e-3)
    # It goes round as it is, and is float32 when a number of it is no longer half a float.
    half.save_bundle(tmp_path / "again")
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("half", "again")]
    assert weights[0] == weights[1]
    kernel = next(w for w in half.model.weights if w.path == "logits/kernel")
    kernel.assign(kernel + 1e-5)
    half.save_bundle(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").stat().st_size == size["whole"]


@pytest.mark.once
def test_a_save_that_fails_leaves_the_old_file(
    clf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.keras"
    clf.save(path)
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        clf.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]
    with pytest.raises(InputError, match=r"ends in \.keras"):
        clf.save(tmp_path / "m.h5")


@pytest.mark.once
def test_a_weight_is_that_of_its_class_or_its_row() -> None:
    model = keras_agnews.load("tiny-transformer")
    rows = list(zip(TEXTS, LABELS, strict=True))

    def loss(chosen: list[tuple[str, str]], class_weight: dict[str, float]) -> float:
        texts, labels = zip(*chosen, strict=True)
        model.compile("sgd", model.loss)
        done = model.fit(texts, labels, batch_size=8, class_weight=class_weight, verbose=0)
        return float(done.history["loss"][0])

    for name in NAMES:
        weight = {other: float(other != name) for other in NAMES}
        assert loss([row for row in rows if row[1] == name], weight) == 0
        assert loss([row for row in rows if row[1] != name], weight) > 0
    alone = [float(np.ravel(model.evaluate([t], [y], verbose=0))[0]) for t, y in rows]
    for i, wanted in enumerate(alone):
        found = model.evaluate(TEXTS, LABELS, sample_weight=np.eye(len(rows))[i], verbose=0)
        assert float(np.ravel(found)[0]) * len(rows) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.once
def test_arguments_that_do_nothing_are_refused(clf: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predict\(\) knows no steps"):
        clf.predict(TEXTS, steps=3)
    with pytest.raises(InputError, match=r"fit\(\) needs at least one text"):
        clf.fit([], [])
    with pytest.raises(InputError, match=r"validation_split is 1\.5"):
        clf.fit(TEXTS, LABELS, validation_split=1.5)
    clf.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="exists: overwrite=True"):
        clf.save(tmp_path / "m.keras", overwrite=False)


@pytest.mark.once
def test_fit_takes_a_dataset_and_shuffles_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras_agnews.load("tiny-transformer")
    ready = model.dataset(TEXTS, model.label_ids(LABELS, len(TEXTS)), 8)
    assert len(model.fit(ready, validation_data=ready, verbose=0).history["val_loss"]) == 1
    asked: list[dict[str, Any]] = []
    make = type(model).dataset

    def dataset(self: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return make(self, *arguments, **options)

    monkeypatch.setattr(type(model), "dataset", dataset)
    model.fit(TEXTS, LABELS, batch_size=8, shuffle=False, seed=7, verbose=0)
    assert asked == [{"shuffle": False, "seed": 7}]


@pytest.mark.once
def test_no_batch_has_more_texts_than_asked(clf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    make = clf._inputs  # noqa: SLF001

    def inputs(ids: np.ndarray) -> Any:
        rows.append(len(ids))
        return make(ids)

    monkeypatch.setattr(clf, "_inputs", inputs)
    clf.predict(TEXTS * 4, batch_size=3)
    assert max(rows) <= 4, "3, where a backend compiles a power of two"


@pytest.mark.once
def test_what_pandas_has_for_nothing_is_named(clf: Any) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match=r"texts\[1\] is NAType, not str: a missing value"):
        clf.classify(pandas.Series(["good", None], dtype="string"))
    with pytest.raises(InputError, match=r"labels\[7\] is <NA>, .*; leave out the rows"):
        clf.evaluate(TEXTS, pandas.Series([*LABELS[:7], None], dtype="string"))
    with pytest.raises(InputError, match="; leave out the rows that have none"):
        clf.evaluate(TEXTS, pandas.Series([*[0] * 7, None], dtype="Int64"))


@pytest.mark.once
def test_figures_of_texts_that_were_cut_elsewhere_are_not_kept(clf: Any) -> None:
    assert clf.description.results
    same = keras_agnews.load("tiny-transformer", max_length=clf.max_length)
    assert same.description.results == clf.description.results
    assert keras_agnews.load("tiny-transformer", max_length=16).description.results == ()


@pytest.mark.once
def test_a_directory_may_have_any_name(
    clf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clf.save_bundle("exp:1")
    assert keras_agnews.load("exp:1").labels == clf.labels
    with pytest.raises(NotFoundError, match="loads names, paths"):
        keras_agnews.load("exp:2")
    with pytest.raises(NotFoundError, match="~nobody-of-this-name"):
        keras_agnews.load("~nobody-of-this-name/model")
