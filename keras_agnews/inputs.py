"""What may be passed as texts, as labels and as weights of samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, ValuesView
from typing import Any

import numpy as np

from keras_agnews.errors import InputError


def check_texts(texts: Any) -> Sequence[str]:
    """Any of the accepted forms as a sequence of str; `InputError` names a bad index."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, Mapping)) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a str or a list of str, not {type(texts).__name__}")
    if (dimensions := getattr(texts, "ndim", 1)) != 1:
        remedy = "; of a table pass the column, e.g. table['text']" * hasattr(texts, "columns")
        raise InputError(f"texts must have one dimension, not {dimensions}{remedy}")
    if isinstance(texts, (set, frozenset)):
        raise InputError("texts must be a list of str, not a set, which has no order")
    if hasattr(texts, "tolist"):  # NumPy array, pandas Series
        texts = texts.tolist()
    elif hasattr(texts, "to_pylist"):  # a column of pyarrow's
        texts = texts.to_pylist()
    checked: list[str] = []
    for i, text in enumerate(texts):  # up to a bad one: there may be no end
        if not isinstance(text, str):
            remedy = ""
            if _is_missing(text):
                remedy = ": a missing value; leave it out, or put an empty text there"
            elif isinstance(text, bytes):
                remedy = ": decode it, as with text.decode('utf-8')"
            elif isinstance(text, tuple):
                remedy = ": fit and evaluate take texts and labels apart, not in batches"
            raise InputError(f"texts[{i}] is {type(text).__name__}, not str{remedy}")
        checked.append(text)
    return checked


def label_ids(labels: Any, names: Sequence[str], count: int) -> np.ndarray:
    """Labels, ints or names, as int32 `(count,)`; `InputError` names the index of a bad one.

    Ints are places in `names`; where the names are numbers in another order, an int might mean
    either and is refused.
    """
    if labels is None:
        raise InputError("labels are missing: pass ints or label names")
    if not hasattr(labels, "__array__") and isinstance(labels, (Iterator, ValuesView)):
        labels = list(labels)
    try:
        values = np.asarray(labels)
    except ValueError as error:  # lists of several lengths
        raise InputError(f"labels must be one int or one name for each text: {error}") from None
    if values.ndim != 1 or len(values) != count:
        remedy = ""
        if values.ndim == 2 and len(values) == count:
            remedy = ": pass " + ("labels.ravel()" if values.shape[1] == 1 else "labels.argmax(1)")
        raise InputError(f"labels have shape {values.shape}, but there are {count} texts{remedy}")
    if values.dtype == object and all(type(label) is int for label in values):
        values = values.astype(np.int64)  # a pandas column that once had gaps
    if values.dtype.kind in "iu":
        if list(names) != list(map(str, range(len(names)))) and all(
            re.fullmatch("-?[0-9]+", name) for name in names
        ):
            raise InputError(
                f"the labels are ints, and so are the model's names, {', '.join(names)}: "
                "pass them as they are named, [str(label) for label in labels]"
            )
        bad = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(bad):
            raise InputError(f"labels[{bad[0]}] is {values[bad[0]]}, not in 0 to {len(names) - 1}")
        return values.astype(np.int32)
    index = {label: i for i, label in enumerate(names)}
    result = np.empty(count, np.int32)
    for i, label in enumerate(values.tolist()):
        if not isinstance(label, str) or label not in index:
            remedy = "load(..., labels=[...]) gives the model other labels"
            if any(map(_is_missing, values.tolist())):
                remedy = "leave out the rows that have none"
            elif isinstance(label, float):
                remedy = "make ints of them, as labels.astype(int) does"
            raise InputError(f"labels[{i}] is {label!r}, not one of {', '.join(names)}; {remedy}")
        result[i] = index[label]
    return result


def sample_weights(values: Any) -> np.ndarray | None:
    """Weights as float32, where there are any."""
    if values is None:
        return None
    try:
        weights = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight must be numbers, one a text: {error}") from None
    if weights.ndim != 1:
        raise InputError(f"sample_weight must be one number a text, not {weights.ndim}-dimensional")
    if len(bad := np.flatnonzero(~np.isfinite(weights))):
        raise InputError(f"sample_weight[{bad[0]}] is {weights[bad[0]]}, not a finite number")
    return weights


def _is_missing(value: Any) -> bool:
    """`None`, NaN or pandas' own; another thing's `!=` may have no truth."""
    nan = isinstance(value, float) and value != value
    return value is None or nan or type(value).__name__ in ("NAType", "NaTType")
