"""What a bundle's `recipe` records of the run that made its weights, and of the models it had."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_agnews.errors import BundleError

# What a run can start from that is no model.
STARTS = (None, "none", "pretrained")
# What goes with the weights that the run made: what does not suit other rows unasked, and the
# record itself.
_OF_THE_RUN = {
    *("seed", "mixed_precision", "delta_rank", "teacher", "teacher_weight", "crops"),
    *("replacements", "teacher_embeddings", "openings", "ema_momentum"),
    *("pretrain_epochs", "pretrain_learning_rate", "steps_per_epoch", "validation_steps"),
    *("rows", "data", "validation_fraction", "start", "max_length", "dtype"),
    *("backend", "minutes", "device"),
}
# What may differ between two runs that are the same.
_OF_THE_MACHINE = {"backend", "minutes", "device"}
# Generations of models that a record has within it: where a model's teacher is what it started
# from, each has the one before twice.
_GENERATIONS = 4


@dataclass(frozen=True)
class RecordedModel:
    """A model that a run has learned of or started from.

    Attributes:
        name: the model's, or its address on the Hub.
        recipe: what its own bundle said under `recipe`; `None` where the name says it all.
    """

    name: str
    recipe: dict[str, Any] | None = None

    def __str__(self) -> str:
        if self.recipe is None:
            return self.name
        kind, seed = (self.recipe.get(key, "unknown") for key in ("recipe", "seed"))
        return f"{self.name} (recipe {kind}, seed {seed})"

    def written(self, generations: int = _GENERATIONS) -> str | dict[str, Any]:
        """As a recipe has it; of distant forebears there is no recipe within."""
        if self.recipe is None:
            return self.name
        own: dict[str, Any] = {}
        if generations:
            own = _with_models(self.recipe, lambda model: model.written(generations - 1))
        return {"name": self.name, "recipe": own}

    @property
    def fingerprint(self) -> str:
        """What two records of one model have in common, whatever machine repeated its run.

        Of the models that it had itself the names count, since a record may have lost the rest.
        """
        if self.recipe is None:
            return self.name
        named = _with_models(self.recipe, lambda model: model.name)
        known = {key: value for key, value in named.items() if key not in _OF_THE_MACHINE}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        return f"{self.name} {digest[:12]}"


def teachers(recipe: dict[str, Any]) -> tuple[RecordedModel, ...]:
    """Of whom the model has learned: of one string, names with commas between; or of a list.

    Raises: `BundleError` for a record that says neither.
    """
    recorded = recipe.get("teacher") or ()
    if isinstance(recorded, str):
        recorded = recorded.split(",")
    if not isinstance(recorded, (list, tuple)):
        raise BundleError("recipe.teacher must be a string or a list")
    return tuple(_model(one, "recipe.teacher") for one in recorded)


def start(recipe: dict[str, Any]) -> RecordedModel | None:
    """The model that the run started from, if any; `BundleError` where the record is none."""
    recorded = recipe.get("start")
    return None if recorded in STARTS else _model(recorded, "recipe.start")


def lineage(recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The recipe, that of the model which the run started from, and so on to the first."""
    recipes = [recipe]
    while (model := start(recipes[-1])) is not None and model.recipe:
        recipes.append(model.recipe)
    return recipes


def check(recipe: dict[str, Any]) -> None:
    """Raise `BundleError` where what the recipe, or one within it, says of models is not that."""
    unread = [recipe]
    while unread:
        one = unread.pop()
        unread += [model.recipe for model in (start(one), *teachers(one)) if model and model.recipe]


def in_words(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe to be shown: the models that the run had by name."""
    words = _with_models(recipe, str)
    if teachers(recipe):
        words["teacher"] = ", ".join(words["teacher"])
    return words


def for_other_rows(recipe: dict[str, Any]) -> dict[str, Any]:
    """The options that suit other rows too."""
    # It takes more epochs to learn from a teacher.
    dropped = _OF_THE_RUN | ({"epochs"} if recipe.get("teacher") else set())
    return {key: value for key, value in recipe.items() if key not in dropped}


def _with_models(
    recipe: dict[str, Any], write: Callable[[RecordedModel], str | dict[str, Any]]
) -> dict[str, Any]:
    kept = dict(recipe)
    if (model := start(recipe)) is not None:
        kept["start"] = write(model)
    if models := teachers(recipe):
        kept["teacher"] = [write(model) for model in models]
    return kept


def _model(recorded: Any, where: str) -> RecordedModel:
    values = recorded if isinstance(recorded, dict) else {"name": recorded, "recipe": None}
    if values.keys() != {"name", "recipe"}:
        raise BundleError(f"{where} has no name or no recipe")
    name, recipe = values["name"], values["recipe"]
    if not isinstance(name, str) or not name:
        raise BundleError(f"{where} has {name!r} for a name")
    if type(recipe) not in (dict, type(None)):
        raise BundleError(f"the recipe of {name} must be an object")
    return RecordedModel(name, recipe)
