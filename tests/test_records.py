"""What a recipe says of the models that its run had."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keras_agnews import BundleError, records
from keras_agnews.records import RecordedModel

FIRST: dict[str, Any] = {"recipe": "full", "rows": 9, "learning_rate": 1e-2, "start": "none"}
TAUGHT = FIRST | {"epochs": 40, "teacher": "minilm-L6,tiny-transformer"}
SECOND = {"recipe": "lora", "learning_rate": 1e-4, "start": {"name": "first", "recipe": TAUGHT}}
THIRD = {"learning_rate": 1e-5, "seed": 7, "start": {"name": "second", "recipe": SECOND}}


def test_a_run_goes_back_to_its_first_model() -> None:
    assert records.lineage(FIRST) == [FIRST]
    assert records.lineage(THIRD) == [THIRD, SECOND, TAUGHT]
    assert records.lineage({"start": "hf://somebody/topics"}) == [{"start": "hf://somebody/topics"}]
    assert (
        records.start(FIRST) is records.start({"start": "pretrained"}) is records.start({}) is None
    )


def test_what_suits_other_rows() -> None:
    trial = FIRST | {"steps_per_epoch": 2, "validation_steps": 1, "epochs": 9, "max_length": 4}
    assert records.for_other_rows(trial) == {"recipe": "full", "learning_rate": 1e-2, "epochs": 9}
    # The epochs it takes to learn from a teacher are no others'.
    assert records.for_other_rows(TAUGHT) == {"recipe": "full", "learning_rate": 1e-2}


def test_forebears_are_recorded_four_generations_back() -> None:
    """Where each has learned of what it started from, they would double each time."""
    recipe, sizes = FIRST, []
    for i in range(12):
        before = RecordedModel("tiny-transformer", recipe).written()
        recipe = FIRST | {"seed": i, "start": before, "teacher": [before, "minilm-L6"]}
        sizes.append(len(json.dumps(recipe)))
        records.check(recipe)
    assert sizes[0] < sizes[2] < sizes[5] <= sizes[-1] < sizes[5] + 100 < 10_000
    seeds = [one.get("seed") for one in records.lineage(recipe)]
    assert seeds == [11, 10, 9, 8, 7], "what is older has a name alone"


def test_a_run_is_known_again_whatever_machine_it_is_repeated_on() -> None:
    cost = {"minutes": 3.5, "device": "CPU", "backend": "jax"}
    here = RecordedModel("a", THIRD)
    there = RecordedModel("a", THIRD | cost | {"start": {"name": "second", "recipe": {}}})
    assert here.fingerprint == there.fingerprint, "of forebears a record may have the names alone"
    others = [
        RecordedModel("b", THIRD),
        RecordedModel("a", THIRD | {"seed": 8}),
        RecordedModel("a"),
    ]
    others += [RecordedModel("a", THIRD | {"start": "pretrained"})]
    assert len({one.fingerprint for one in [here, *others]}) == 5


def test_models_are_shown_by_name() -> None:
    shown = records.in_words(THIRD | {"teacher": ["minilm-L6", {"name": "b", "recipe": {}}]})
    assert shown["start"] == "second (recipe lora, seed unknown)"
    assert shown["teacher"] == "minilm-L6, b (recipe unknown, seed unknown)"
    assert shown["seed"] == 7


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"teacher": 3}, "recipe.teacher must be a string or a list"),
        ({"teacher": ["a", 3]}, "recipe.teacher has 3 for a name"),
        ({"start": ""}, "recipe.start has '' for a name"),
        ({"start": {"name": "a"}}, "recipe.start has no name or no recipe"),
        ({"start": {"name": "a", "recipe": "full"}}, "the recipe of a must be an object"),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 500])
def test_a_record_that_is_none_is_refused_however_deep(
    bad: dict[str, Any], message: str, depth: int
) -> None:
    for i in range(depth):
        within = {"name": "a", "recipe": bad}
        bad = {"teacher": [within]} if i % 2 else {"start": within}
    with pytest.raises(BundleError, match=message):
        records.check(bad)
