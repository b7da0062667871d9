"""What a recipe says of the models that its run had."""

from __future__ import annotations

from typing import Any

import pytest

from keras_agnews import BundleError, records

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


def test_what_suits_other_rows_is_how_the_first_model_was_begun() -> None:
    assert records.for_other_rows(FIRST) == {"recipe": "full", "learning_rate": 1e-2}
    # The epochs it takes to learn from a teacher are no others'.
    assert records.for_other_rows(THIRD) == {"recipe": "full", "learning_rate": 1e-2}
    assert records.for_other_rows(SECOND | {"start": "pretrained"})["learning_rate"] == 1e-4


def test_models_are_shown_by_name() -> None:
    shown = records.in_words(THIRD | {"teacher": ["minilm-L6", {"name": "b", "recipe": {}}]})
    assert shown["start"] == "another second (recipe lora)"
    assert shown["teacher"] == "minilm-L6, another b (recipe unknown)"
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
