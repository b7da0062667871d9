"""What a teacher gives: targets, embeddings; and whole runs with one, killed or not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from conftest import SENTENCES

import keras_agnews
from keras_agnews import InputError, TrainingError, text_files

TEXTS = [text for text, _ in SENTENCES] * 4
LABELS = [label for _, label in SENTENCES] * 4
OPTIONS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
TEACHER = "tiny-transformer"


def fresh_model(name: str = "tiny-transformer") -> Any:
    import keras

    keras.utils.set_random_seed(7)
    return keras_agnews.load(name, weights=None)


def weights(classifier: Any) -> list[np.ndarray]:
    import keras

    return [keras.ops.convert_to_numpy(w.value).copy() for w in classifier.model.weights]


def test_targets_mix_answer_and_label() -> None:
    from keras_agnews.distillation import targets

    answers = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
    mixed = targets(answers, np.array([2, 1]), 0.75)
    expected = [[0.525, 0.15, 0.325], [0.075, 0.85, 0.075], [0.25, 0.25, 0.5]]
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)
    assert mixed.dtype == np.float32


@pytest.mark.backend
@pytest.mark.parametrize("student", ["tiny-transformer", "gru-attention", "small-bert-L4"])
def test_embeddings_are_the_teachers_principal_components(student: str) -> None:
    import keras

    from keras_agnews import loading
    from keras_agnews.distillation import EMBEDDINGS, start_embeddings

    clf = fresh_model(student)
    origin = loading.open_checkpoint("minilm-L6")  # word pieces
    small = {"hidden_size": 144, "layers": 1, "heads": 1, "feed_forward_size": 8}
    config = dataclasses.replace(origin.description.config, **small)  # wider than either
    description = dataclasses.replace(origin.description, config=config)
    teacher = keras_agnews.TextClassifier(description, origin.tokenizer)

    def table(classifier: Any) -> np.ndarray:
        (found,) = (w for w in classifier.model.weights if w.path in EMBEDDINGS)
        return keras.ops.convert_to_numpy(found.value).astype(np.float64)

    before, wide = table(clf), table(teacher)
    start_embeddings(clf, teacher)
    after = table(clf)
    assert after.shape == before.shape
    words, pieces = clf.tokenizer.vocabulary, teacher.tokenizer.vocabulary
    index = {piece: i for i, piece in enumerate(pieces)}
    moved = (after != before).any(axis=1)
    np.testing.assert_allclose(after[moved].std(), before.std(), rtol=1e-3)
    # A token that both have has an affine image of its row, along axes of falling variance.
    known = [i for i, word in enumerate(words) if word in index][:4_000]
    source = wide[[index[words[i]] for i in known]]
    solved, *_ = np.linalg.lstsq(np.c_[source, np.ones(len(source))], after[known], rcond=None)
    np.testing.assert_allclose(
        np.c_[source, np.ones(len(source))] @ solved, after[known], atol=1e-5
    )
    variance = after[moved].var(axis=0)
    assert (np.diff(variance) <= 1e-9).all()
    # Any other word has that of the mean of its pieces' rows.
    if student != "small-bert-L4":
        split = [i for i, word in enumerate(words) if word not in index][-200:]
        ids = teacher.tokenizer([words[i] for i in split], padding=False)["input_ids"]
        means = np.stack([wide[row[1:-1]].mean(axis=0) for row in ids])
        image = np.c_[means, np.ones(len(means))] @ solved
        np.testing.assert_allclose(image, after[split], atol=1e-5)


def test_near_words_are_those_of_the_largest_cosine() -> None:
    from keras_agnews.distillation import near_words

    teacher = keras_agnews.load("gru-attention")
    vocabulary = teacher.tokenizer.vocabulary
    rows = {t: i for i, t in enumerate(vocabulary) if len(t) > 2 and t.isalpha()}
    table = teacher.arrays()["encoder/embedding/embeddings"]
    table = np.asarray(table, np.float64)[list(rows.values())]
    table -= table.mean(axis=0)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    words = np.array(list(rows))
    asked = [*range(0, len(words), 501), len(words) - 1]
    near = near_words(teacher, {*words[asked], "no-such-word", "of"})
    assert set(near) == set(words[asked]), "of those that it has, and no short ones"
    for i in asked:
        cosines = table @ table[i]
        order = np.argsort(-cosines)
        assert words[order[0]] == words[i]
        found = [list(rows).index(word) for word in near[words[i]]]
        assert len(found) == 12
        np.testing.assert_allclose(cosines[found], cosines[order[1:13]], atol=1e-6)


@pytest.mark.backend
def test_the_answers_of_a_teacher_are_learned(tmp_path: Path) -> None:
    """Labels that are all shuffled teach nothing: what the student knows is the teacher's."""
    teacher = keras_agnews.load(TEACHER)
    truth = teacher.classify(TEXTS)
    wrong = LABELS[2:] + LABELS[:2]
    clf = fresh_model()
    data, options = (TEXTS, wrong), OPTIONS | {"epochs": 12, "crops": 2}
    # Without validation, which by these labels would choose the epoch that has learned least.
    result = keras_agnews.finetune(
        clf, data, teacher=TEACHER, teacher_weight=1.0, output=tmp_path, **options
    )
    answers = clf.classify(TEXTS)
    assert np.mean([a.label == b.label for a, b in zip(answers, truth, strict=True)]) > 0.8
    assert result["history"][-1]["accuracy"] > 0.8, "it is the accuracy on the teacher's answers"
    recipe = keras_agnews.load(tmp_path).description.recipe
    assert (recipe["crops"], recipe["rows"]) == (2, len(TEXTS))
    assert [one["name"] for one in recipe["teacher"]] == [TEACHER]
    assert not list(tmp_path.glob("teacher.*"))


@pytest.mark.backend
def test_several_teachers_answer_with_their_mean_in_the_students_order(tmp_path: Path) -> None:
    from keras_agnews.distillation import Teacher
    from keras_agnews.recipes import Recipe

    one = keras_agnews.load(TEACHER)
    other = fresh_model()
    other.describe(recipe={})
    other.save_bundle(tmp_path)
    order = list(reversed(one.labels))
    teacher = Teacher(Recipe(teacher=f"{TEACHER},{tmp_path}"), order)
    mean = (one.predict(TEXTS[:8]) + other.predict(TEXTS[:8])) / 2
    np.testing.assert_allclose(teacher.probabilities(TEXTS[:8]), mean[:, ::-1], atol=1e-6)
    weights_sha256 = json.loads((tmp_path / "config.json").read_text())["weights"]["sha256"]
    nameless = {"name": "tiny-transformer", "recipe": {"weights_sha256": weights_sha256}}
    zoos = {"name": "tiny-transformer", "recipe": one.description.recipe}
    assert teacher.record == [zoos, nameless], "no path"


@pytest.mark.backend
# In the midst of pretraining, of the teacher's answers (no backend's business), and of training
# (as any run's).
@pytest.mark.parametrize(
    "checkpoints", [1, *(pytest.param(i, marks=pytest.mark.once) for i in (5, 8))]
)
def test_a_resumed_student_is_bit_equal_to_an_unbroken_one(
    checkpoints: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import resumable
    from keras_agnews.classifier import TextClassifier

    options = OPTIONS | {"word_dropout": 0.2, "teacher": TEACHER, "crops": 1, "pretrain_epochs": 1}
    options |= {"teacher_embeddings": True, "openings": 1, "replacements": 1}
    data = (TEXTS[:16], LABELS[:16])
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(resumable, "CHUNK", 16)
    asked: list[int] = []
    predict, count = TextClassifier.predict, itertools.count(1)
    write, json_written = resumable.ResumableFit.checkpoint, text_files.write_json

    def predicted(self: Any, texts: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(texts))
        return predict(self, texts, *args, **kwargs)

    def counted(function: Any) -> Any:
        def counting(*args: Any) -> Any:
            function(*args)
            if next(count) == checkpoints:
                raise KeyboardInterrupt

        return counting

    monkeypatch.setattr(TextClassifier, "predict", predicted)
    whole = fresh_model()
    unbroken = keras_agnews.finetune(whole, data, data, output=tmp_path / "a", **options)
    assert asked == [16, 16, 16]
    asked.clear()
    with monkeypatch.context() as patch:
        patch.setattr(resumable.ResumableFit, "checkpoint", counted(write))
        patch.setattr("keras_agnews.text_files.write_json", counted(json_written))
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), data, data, output=tmp_path / "b", **options)
    resumed = fresh_model()
    result = keras_agnews.finetune(
        resumed, data, data, output=tmp_path / "b", resume=True, **options
    )
    assert sum(asked) == 48, "no answer is computed twice"
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(unbroken["history"], result["history"], strict=True):
        assert one["validation_loss"] == other["validation_loss"]


@pytest.mark.backend
@pytest.mark.once  # the answers are kept by the same code on any
def test_answers_of_another_run_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first checkpoint, then resumed with other texts of the same number."""
    from keras_agnews.resumable import ResumableFit

    options = OPTIONS | {"teacher": TEACHER, "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(ResumableFit, "epochs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), output=tmp_path, **options)
    stored = np.load(tmp_path / "teacher.npy")
    np.testing.assert_allclose(stored, keras_agnews.load(TEACHER).predict(TEXTS), atol=1e-6)
    turned = (TEXTS[1:] + TEXTS[:1], LABELS[1:] + LABELS[:1])
    mark = json.loads((tmp_path / "teacher.json").read_text())
    keras_agnews.finetune(fresh_model(), turned, output=tmp_path, resume=True, **options)
    other = fresh_model()
    keras_agnews.finetune(other, turned, **options)
    loaded = keras_agnews.load(tmp_path)
    np.testing.assert_allclose(loaded.predict(TEXTS), other.predict(TEXTS), atol=1e-6)
    assert mark["done"] == len(TEXTS)


def test_a_file_of_answers_that_has_lost_its_end_is_made_anew(tmp_path: Path) -> None:
    from keras_agnews.resumable import compute_once

    asked: list[int] = []

    def answer(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return np.full((len(rows), 2), 7, np.float32)

    file, rows = tmp_path / "teacher.npy", np.arange(5_000)
    for lost, wanted in ((0, rows.tolist()), (0, []), (30_000, rows.tolist())):
        if lost:
            os.truncate(file, file.stat().st_size - lost)
        array, _ = compute_once(answer, rows, (5_000, 2), file, "a run")
        assert (array == 7).all()
        assert asked == wanted
        asked.clear()


def test_a_disk_without_room_is_named_before_the_first_answer(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    from keras_agnews.resumable import compute_once

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"teacher.npy cannot have the 40,000 bytes"):
            compute_once(pytest.fail, np.arange(5_000), (5_000, 2), tmp_path / "teacher.npy", "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.backend
@pytest.mark.once
def test_answers_of_a_teacher_that_has_since_been_trained_anew_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import resumable

    teacher, output = fresh_model(), tmp_path / "m"
    teacher.save_bundle(tmp_path / "teacher")
    options = OPTIONS | {"teacher": tmp_path / "teacher", "teacher_weight": 1.0, "output": output}
    monkeypatch.setattr(resumable, "CHUNK", 8)
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", 0.0)
    written = text_files.write_json
    write = resumable.ResumableFit.checkpoint

    def killed(path: Path, values: Any) -> None:
        written(path, values)
        if path.name == "teacher.json":
            raise KeyboardInterrupt

    def killed_later(self: Any, epoch: int, batch: int) -> None:
        write(self, epoch, batch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keras_agnews.text_files.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), **options)
    assert json.loads((output / "teacher.json").read_text())["done"] == 8
    teacher.fit(TEXTS, LABELS, batch_size=8, verbose=0)
    teacher.save_bundle(tmp_path / "teacher")
    answers = teacher.predict(TEXTS)
    # All of them are asked for anew, and no longer those of a run that has begun.
    with monkeypatch.context() as patch:
        patch.setattr(resumable.ResumableFit, "checkpoint", killed_later)
        with pytest.raises(KeyboardInterrupt):
            keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), resume=True, **options)
    np.testing.assert_allclose(np.load(output / "teacher.npy"), answers, atol=1e-6)
    # Another temperature gives other answers.
    warm, other = keras_agnews.load(tmp_path / "teacher"), tmp_path / "warm"
    warm.describe(temperature=20.0)
    warm.save_bundle(other)
    warmer = options | {"teacher": other}
    with pytest.raises(TrainingError, match="is of a run with teacher_marks"):
        keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), resume=True, **warmer)
    # It may be moved, for it is known by its weights.
    options["teacher"] = (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), resume=True, **options)
    teacher.fit(TEXTS, LABELS, batch_size=8, verbose=0)
    teacher.save_bundle(options["teacher"])
    with pytest.raises(TrainingError, match="is of a run with teacher_marks"):
        keras_agnews.finetune(fresh_model(), (TEXTS, LABELS), resume=True, **options)


@pytest.mark.backend
@pytest.mark.once
def test_a_recorded_run_takes_its_teachers_as_they_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import loading, runs

    address = "hf://somebody/topics@v1"
    opened = loading.open_checkpoint

    def hub(source: Any, *arguments: Any, **pin: Any) -> Any:
        return opened(TEACHER if source == address else source, *arguments, **pin)

    monkeypatch.setattr(loading, "open_checkpoint", hub)
    clf = fresh_model()
    record = {"recipe": "full", "rows": 5, "start": "none", "validation_fraction": 0.1}
    clf.describe(recipe=record | {"teacher": f"{address},{TEACHER}"})
    clf.save_bundle(tmp_path)  # elsewhere, under another path, the second one
    for given in (f"{address},{TEACHER}", f"{address}, {TEACHER}", f"{address},{tmp_path}"):
        plan = runs.recorded_plan(clf.description, {"teacher": given})
        assert plan.recipe["teacher"] == given
    with pytest.raises(InputError, match="contradicts --recipe shipped"):
        runs.recorded_plan(clf.description, {"teacher": f"{TEACHER},{address}"})
    # What is on the Hub is recorded by its commit, to which a branch points today.
    origin = {"repository": "hf://somebody/topics", "revision": "c" * 40}
    there = dataclasses.replace(opened(TEACHER).description, source=origin)
    checkpoint = dataclasses.replace(opened(TEACHER), description=there)
    monkeypatch.setattr(loading, "open_checkpoint", lambda *_, **__: checkpoint)
    assert loading.recorded_as(address).written() == f"hf://somebody/topics@{'c' * 40}"


@pytest.mark.backend
def test_what_cannot_teach_or_be_taught_is_said_at_the_start(tmp_path: Path) -> None:
    data = (TEXTS, LABELS)

    def run(**options: Any) -> Any:
        return keras_agnews.finetune(fresh_model(), data, **OPTIONS, **options)

    with pytest.raises(InputError, match="crops needs a teacher"):
        run(crops=2)
    with pytest.raises(InputError, match="replacements needs a teacher"):
        run(replacements=2)
    with pytest.raises(InputError, match="teacher_embeddings needs a teacher"):
        run(teacher_embeddings=True)
    with pytest.raises(InputError, match="pretrain_epochs changes what recipe 'head' freezes"):
        run(pretrain_epochs=1, recipe="head")
    with pytest.raises(InputError, match="teacher must be a name"):
        run(teacher=3)
    with pytest.raises(keras_agnews.NotFoundError, match="no-such-model"):
        run(teacher="no-such-model")
    stranger = keras_agnews.load("tiny-transformer", weights=None, labels=["good", "bad"])
    stranger.save_bundle(tmp_path)
    with pytest.raises(InputError, match="has the labels good, bad, not World"):
        run(teacher=tmp_path)
    narrow = keras_agnews.load("small-bert-L4", weights=None)
    with pytest.raises(InputError, match="32 columns, fewer than the 128"):
        keras_agnews.finetune(narrow, data, teacher=TEACHER, teacher_embeddings=True, **OPTIONS)


@pytest.mark.backend
def test_an_entrys_teacher_is_not_asked_unless_one_says_so() -> None:
    from keras_agnews.recipes import Recipe, make_recipe

    clf = fresh_model()
    recorded = {"epochs": 40, "learning_rate": 2e-3, "teacher": "minilm-L6", "crops": 3}
    clf.describe(recipe=recorded | {"rows": 5, "start": "none", "mixed_precision": True})
    recipe = make_recipe(clf)
    assert (recipe.epochs, recipe.learning_rate, recipe.crops) == (3, 2e-3, 0)
    assert recipe.teacher is None
    assert not recipe.mixed_precision, "that suits a machine, not rows"
    taught = {"teacher": "minilm-L6", "crops": 2, "replacements": 3}
    several = ({}, taught, {"pretrain_epochs": 3}, {"openings": 2})
    for options in several:
        recipe = Recipe(**options)
        assert Recipe(**recipe.record()) == recipe
    clf.describe(recipe={"epochs": 40})
    assert make_recipe(clf).epochs == 40


@pytest.mark.backend
@pytest.mark.once
def test_a_teacher_of_weight_0_teaches_nothing() -> None:
    plain, taught = fresh_model(), fresh_model()
    keras_agnews.finetune(plain, (TEXTS, LABELS), **OPTIONS)
    options = OPTIONS | {"teacher": TEACHER, "teacher_weight": 0.0}
    keras_agnews.finetune(taught, (TEXTS, LABELS), **options)
    for one, other in zip(weights(plain), weights(taught), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.backend
@pytest.mark.once
def test_who_has_not_learned_cannot_teach(tmp_path: Path) -> None:
    clf = fresh_model()
    known = dataclasses.replace(clf.description.config, pooling="first")
    other = dataclasses.replace(clf.description, config=known)
    keras_agnews.TextClassifier(other, clf.tokenizer).save_bundle(tmp_path / "first")
    # A head that has learned from another pooling is not taken.
    with pytest.warns(UserWarning, match=r"head_hidden/bias, .*logits/kernel are new"):
        keras_agnews.load("tiny-transformer", weights=tmp_path / "first")
    config = oracle.bert_config()
    tensors = oracle.random_tensors(config, 1)
    headless = {
        name.removeprefix("bert."): value
        for name, value in tensors.items()
        if "classifier" not in name
    }
    source = oracle.checkpoint(
        tmp_path / "headless", config | {"architectures": ["BertModel"]}, headless
    )
    with pytest.raises(InputError, match=r"cannot teach: .*new and untrained"):
        keras_agnews.finetune(clf, (TEXTS, LABELS), teacher=source, **OPTIONS)
