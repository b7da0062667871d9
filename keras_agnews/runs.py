"""A whole training run, from a model's name and rows to a bundle, and a recorded one once more.

`training` fine-tunes a classifier that is there; this is what comes before it: where the weights
start, which rows are held out, and the models that a recorded run had: what it started from, and
its teachers.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_agnews import data, hub, loading, records, registry
from keras_agnews.bundle import Bundle
from keras_agnews.data import Dataset
from keras_agnews.errors import InputError
from keras_agnews.recipes import shipped_recipe
from keras_agnews.records import STARTS, RecordedModel
from keras_agnews.validation import split_validation

VALIDATION_FRACTION = 0.05
# News that shares half of its runs of three words tells the same story. Of other rows, which may
# all follow one pattern, duplicates alone are left out.
_NEAR_DUPLICATES = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is told besides its rows.

    Attributes:
        recipe: options of `keras_agnews.finetune`: `recipe` and fields of `Recipe`.
        start: `weights` of `keras_agnews.load`, or `"none"`; a bundle's description as of
            `teachers`.
        validation_fraction: share of the rows that is held out where no others are given.
        dtype: how the finished weights are stored.
        max_length: tokens at which a text is cut; `None` for the model's own.
        teachers: what the recipe's `teacher` shall be; where it is a bundle's description, the
            model is trained first, by the recipe in it.
    """

    recipe: dict[str, Any] = field(default_factory=dict)
    start: str | Bundle
    validation_fraction: float = VALIDATION_FRACTION
    dtype: str = "float32"
    max_length: int | None = None
    teachers: tuple[str | Bundle, ...] = ()


def default_start(name: str, description: Bundle) -> str:
    """Where a run of a model starts unless told: a model of one's own as it is."""
    if registry.find(name) is None:
        return "best"
    return "none" if description.pretrained is None else "pretrained"


def label_names(description: Bundle, rows: Dataset) -> tuple[str, ...]:
    """The labels of the trained model: the model's own where the rows have the same, in order."""
    same = set(description.labels) == set(rows.label_names)
    return description.labels if same else rows.label_names


def recorded_plan(description: Bundle, given: dict[str, Any]) -> Plan:
    """The run that a bundle records.

    Args:
        description: what the bundle says.
        given: options that must not differ from the record, `None` where not given; but `seed` may,
            for the spread, and `teacher` and `weights` may say where the teachers and the model
            to start from are, which are then not trained again.

    Raises: `InputError` for a model that records no run, or none that can be repeated.
    """
    recipe, recorded = dataclasses.asdict(shipped_recipe(description)), description.recipe
    if recorded.get("start") in (None, "best", "another model"):  # as an older version wrote
        raise InputError(f"{description.name} does not record what its training started from")
    fraction = recorded.get("validation_fraction")
    if not isinstance(fraction, int | float):
        raise InputError(f"{description.name} was validated on rows that it does not record")
    choices: dict[str, Any] = {"validation_fraction": fraction, "dtype": recorded.get("dtype")}
    if given.get("seed") is not None:
        recipe["seed"] = given["seed"]
    began, taught = records.start(recorded), records.teachers(recorded)
    models = {"teacher": taught, "weights": (began,) if began else ()}
    values = recipe | choices | {"weights": recorded["start"], "validation": None}
    values |= {"max_length": recorded.get("max_length")}
    values |= {name: ", ".join(map(str, found)) for name, found in models.items() if found}
    places = {name: given[name] for name in models if given.get(name) is not None}
    for name, value in given.items():
        if name == "recipe" or value is None or value == values[name]:
            continue
        if name in places:
            parts = places[name].split(",") if name == "teacher" else [places[name]]
            if _lie_there([part.strip() for part in parts], models[name]):
                continue
        recorded_value = "its own" if values[name] is None else values[name]
        raise InputError(
            f"--{name.replace('_', '-')} {value} contradicts --recipe shipped: the record of "
            f"{description.name} says {recorded_value}"
        )
    sources = {
        name: () if name in places else [_source(model, name, recorded) for model in models[name]]
        for name in models
    }
    return Plan(
        recipe=recipe | {"teacher": places.get("teacher")},
        start=places.get("weights") or (sources["weights"] or [recorded["start"]])[0],
        max_length=recorded.get("max_length"),
        validation_fraction=fraction,
        dtype=choices["dtype"] or "float32",
        teachers=tuple(sources["teacher"]),
    )


def _lie_there(places: Sequence[str], models: Sequence[RecordedModel]) -> bool:
    return len(places) == len(models) and all(map(_lies_there, places, models))


def _lies_there(place: str, model: RecordedModel) -> bool:
    """Whether a recorded model is at this place, as far as the record says.

    The name of one of the zoo stands for whatever that has under this name now.
    """
    if place == "best" or place in STARTS:
        return False
    if place == model.name:
        return True
    there = loading.recorded_as(place)
    if model.recipe is None or there.recipe is None:
        return there.name == model.name
    if not model.recipe:  # of which nothing is known, and the name may be that of a directory
        return not there.recipe
    return there.fingerprint == model.fingerprint


def _source(model: RecordedModel, option: str, run: dict[str, Any]) -> str | Bundle:
    """Where a model is that a run had; or, where the zoo has it not, what trains it again."""
    if model.recipe is None and model.name.startswith(hub.SCHEME):
        return model.name
    try:
        if registry.find(model.name) is None:
            raise InputError("it is not in the zoo")
        entry = loading.open_checkpoint(model.name).description
        here = RecordedModel(model.name, entry.recipe)
        if model.recipe is None or here.fingerprint == model.fingerprint:
            return model.name
        again = dataclasses.replace(entry, recipe=model.recipe)
        recorded_plan(again, {})  # now, not when the others are trained
        if model.recipe.get("data") != run.get("data"):
            raise InputError(f"its rows were others ({model.recipe.get('data')})")
    except InputError as error:
        reason: BaseException = error
        while isinstance(reason.__cause__, InputError):  # of a model that this one had
            reason = reason.__cause__
        raise InputError(
            f"the recorded {option} {model.name} cannot be trained again: {reason}; "
            f"--{option} PATH says where it is"
        ) from error
    return again


def run(
    name: str,
    rows: Dataset,
    output: Path,
    plan: Plan,
    *,
    held_out: Dataset | None = None,
    resume: bool = False,
    progress: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train a model; `output` then has its bundle.

    Args:
        name: what `keras_agnews.load` takes.
        rows: to train on, and to hold out from where there is no `held_out`.
        output: directory of the run.
        plan: how.
        held_out: rows to choose the best epoch by, with the labels that `label_names` gives.
        resume: go on with the run in `output`, and with those of its teachers.
        progress: whether a terminal shows progress bars.
        base: directory of the pretrained base, where it is not to be fetched.

    Returns: what `keras_agnews.finetune` does.
    """
    models = {"start": plan.start}
    models |= {f"teacher-{i}": teacher for i, teacher in enumerate(plan.teachers, 1)}
    if "," in str(output) and any(isinstance(teacher, Bundle) for teacher in plan.teachers):
        raise InputError(
            f"--output {output}: a comma parts the names of teachers, which are trained in there: "
            "give a directory without one"
        )
    sources: dict[str, str] = {}
    first: dict[str, Bundle] = {}
    for place, model in models.items():
        if isinstance(model, str):
            sources[place] = model
        else:  # one that started the run and taught it too is trained once
            same = next((one for one, other in first.items() if other == model), place)
            first[same] = model
            sources[place] = str(output / same)
    for i, (place, model) in enumerate(first.items(), 1):
        if progress and sys.stderr is not None:
            sys.stderr.write(f"{place}, {i} of {len(first)} to be trained first: {model.name}\n")
        options: dict[str, Any] = {"resume": resume, "progress": progress, "base": base}
        run(model.name, rows, output / place, recorded_plan(model, {}), **options)
    start = sources.pop("start")
    recipe = plan.recipe | ({"teacher": list(sources.values())} if sources else {})
    import keras

    from keras_agnews.startup import tensorflow_silenced
    from keras_agnews.training import finetune

    with tensorflow_silenced():  # this imports it, whatever the backend, as will `finetune`
        keras.utils.set_random_seed(recipe.get("seed") or 0)
    description = loading.open_checkpoint(name).description
    labels = label_names(description, rows)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*new and untrained", UserWarning)  # but not for long
        clf = loading.load(
            name,
            weights=None if start == "none" else start,
            labels=None if labels == description.labels else labels,
            max_length=plan.max_length,
            base=base,
        )
    if start not in STARTS and set(labels) < set(description.labels):
        warnings.warn(
            f"no row has the label {', '.join(sorted(set(description.labels) - set(labels)))}: the "
            f"model will not know it, and gets a new head for {', '.join(labels)}",
            stacklevel=2,
        )
    named = [rows.label_names[i] for i in rows.labels.tolist()]
    rows = dataclasses.replace(rows, labels=clf.label_ids(named, len(named)), label_names=labels)
    fraction = plan.validation_fraction if held_out is None else None
    # AG News is the same in a directory of any name, and so must be what two runs record of it.
    called = "agnews" if rows.split else rows.name
    origin: Any = start
    if start not in STARTS:
        origin = loading.recorded_as(name if start == "best" else start).written()
    if held_out is None:
        # The same rows whatever the seed, so that runs with several can be compared.
        similarity = _NEAR_DUPLICATES if set(labels) == set(data.LABELS) else 1.0
        rows, held_out = split_validation(rows, plan.validation_fraction, similarity=similarity)
    return finetune(
        clf,
        rows,
        held_out,
        output=output,
        resume=resume,
        progress=progress,
        dtype=plan.dtype,
        base=base,
        record={
            "start": origin,
            "validation_fraction": fraction,
            "data": ", ".join(filter(None, (called, rows.note))),
        },
        **recipe,
    )
