"""The model card: what is known of a model, for people and for the Hub.

Between our markers the text is ours and is written anew each time; the rest is a person's and
stays, and so do the metadata that a person has added or changed.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from keras_agnews import records
from keras_agnews.bundle import CARD_FILE, TASK, Bundle
from keras_agnews.data import HUB_REPOSITORY
from keras_agnews.errors import BundleError, listed
from keras_agnews.text_files import write_text

START = "<!-- keras_agnews: start, written anew by each save and push -->"
END = "<!-- keras_agnews: end -->"
# Whatever an older version says behind the word.
_SECTION = re.compile(r"<!-- keras_agnews: start\b[^>]*-->.*?" + re.escape(END) + r"\n?", re.DOTALL)
_LIBRARY = "keras_agnews"
_OURS = "config.json"  # where the scores that we report come from, and by which we know them again
_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "documents_per_second": "documents a second",
}


def render(
    description: Bundle,
    address: str | None = None,
    existing: str | None = None,
    license: str | None = None,
    name: str = CARD_FILE,
) -> str:
    """The text of README.md.

    Args:
        description: what is known.
        address: where it can be loaded from, e.g. `"hf://user/my-topics"`.
        existing: the card that there is. Its text is kept but for what stands between our
            markers; where a person has taken those out, none of it is touched.
        license: the Hub's identifier of a licence, e.g. `"mit"`; by default the existing card's.
        name: of the existing card, in a message.

    Raises:
        BundleError: the metadata of the existing card cannot be read.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    section = f"{START}\n{_section(description, address)}{END}\n"
    if existing is None or not existing.strip():
        existing = f"\n{section}"
    if not REGEX_YAML_BLOCK.match(existing):
        existing = "---\n{}\n---\n" + existing
    try:
        card: Any = ModelCard(existing)
        before = card.data.to_dict()
        _add_metadata(card.data, description, address, license)
        same = card.data.to_dict() == before
    except Exception as error:  # the client lets through what its YAML library raises
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{name}: its metadata cannot be read ({reason}): mend it") from None
    # A person's own layout and comments are lost only where something has to change.
    text = existing if same else card.content
    return _SECTION.sub(lambda _: section, text, count=1)


def write(directory: Path, description: Bundle) -> None:
    """Write the card of a bundle, unless there is one that a person has taken over."""
    path = directory / CARD_FILE
    with contextlib.suppress(BundleError):  # a person's metadata or encoding, which they can mend
        existing = read(path) if path.exists() else None
        if existing is None or _SECTION.search(existing):
            write_text(path, render(description, existing=existing))


def read(path: Path, name: str = "") -> str:
    """The text of a card, which is at `path` and in a message has that name."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BundleError(
            f"{name or path}: byte {error.start} is not of UTF-8: save the file as UTF-8"
        ) from None


def words(text: str) -> str:
    """What a person has written in a card."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = REGEX_YAML_BLOCK.sub("", text, count=1)
    text = _SECTION.sub("", text, count=1)
    return text.strip()


def with_metadata(text: str, theirs: str, mine: str, plain: str) -> tuple[str, list[str]]:
    """A card with the metadata of two, and the keys in which persons have said two things.

    Args:
        text: the card.
        theirs: has the metadata that stay where the two differ.
        mine: has those that are added.
        plain: what it would be without a person: a value as it is here is nobody's.
    """
    from huggingface_hub import ModelCard

    made: Any = ModelCard(text)
    cards: list[Any] = [ModelCard(card) for card in (theirs, mine, plain)]
    kept, added, nobodys = (card.data.to_dict() for card in cards)
    added = {k: v for k, v in added.items() if v not in (nobodys.get(k), kept.get(k))}
    differing = sorted(k for k in added if kept.get(k) != nobodys.get(k))
    merged = kept | {k: v for k, v in added.items() if k not in differing}
    if made.data.to_dict() == merged:
        return text, differing  # in a person's own layout
    made.data = type(made.data)(**merged)
    return made.content, differing


def _add_metadata(
    data: Any, description: Bundle, address: str | None, license_: str | None
) -> None:
    """What we know, where a person has not said otherwise."""
    data.library_name = data.library_name or _LIBRARY
    data.pipeline_tag = data.pipeline_tag or TASK
    data.tags = list(dict.fromkeys([*(data.tags or ()), "keras", _LIBRARY]))
    data.license = license_ or data.license
    base = (description.source or {}).get("repository")
    if isinstance(base, str) and base.startswith("hf://") and base != address:
        data.base_model = data.base_model or base.removeprefix("hf://")
    ours = [r for row in description.results if (r := _result(row, address))]
    others = [r for r in data.eval_results or () if r.source_name != _OURS]
    names = {r.unique_identifier for r in others}
    ours = [result for result in ours if result.unique_identifier not in names]
    data.eval_results = [*others, *ours] or None
    if not others:
        data.model_name = description.name if ours else None


def _result(row: dict[str, Any], address: str | None) -> Any:
    """A measured score as the Hub shows it; `None` for what is none, such as a throughput."""
    from huggingface_hub import EvalResult

    metric, value, data = row.get("metric"), row.get("value"), row.get("data")
    if metric not in ("accuracy", "macro_f1") or not isinstance(data, str) or not _number(value):
        return None
    if "precision" in row:  # the Hub would show two of the same name; the table has both
        return None
    kind = "f1" if metric == "macro_f1" else metric
    name = re.sub(r"\W+", "-", data.lower()).strip("-") or "data"
    is_agnews = re.fullmatch(r"ag[_ -]?news( test| train)?", data, re.IGNORECASE)
    return EvalResult(
        task_type=TASK,
        dataset_type=HUB_REPOSITORY if is_agnews else name,
        dataset_name=data,
        dataset_split=next((s for s in ("test", "train") if data.endswith(f" {s}")), None),
        metric_type=kind,
        metric_name=_TITLES[metric],
        metric_value=value,
        source_name=_OURS,
        source_url=f"https://huggingface.co/{(address or '').removeprefix('hf://')}",
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # an int may be larger than a float


def _section(description: Bundle, address: str | None) -> str:
    facts = {
        "labels": listed(description.labels, ", "),
        "parameters": f"{description.parameters:,}",
        "architecture": description.builder,
        "longest text": f"{description.max_length} tokens; a longer one is cut",
    }
    if description.weights is not None:
        place = description.weights.source or "in this repository"
        facts["weights"] = ", ".join(filter(None, (place, description.weights.dtype)))
    if source := (description.source or {}).get("repository"):
        facts["made from"] = f"{source} at {(description.source or {}).get('revision')}"
    recipe = {k: v for k, v in records.in_words(description.recipe).items() if v is not None}
    if data := recipe.pop("data", None):
        facts["trained on"] = str(data)
    if recipe:
        facts["recipe"] = ", ".join(f"{key} {value}" for key, value in recipe.items())
    lines = [
        f"# {_plain(description.name)}",
        "",
        "A text classifier of `keras_agnews`: a Keras model on TensorFlow, JAX or PyTorch.",
        "",
        "```python",
        "import keras_agnews",
        "",
        f'clf = keras_agnews.load("{address or "PATH OF THIS DIRECTORY"}")',
        'clf.classify("Oil prices soar to an all-time record").label',
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_plain(value)} |" for key, value in facts.items()),
    ]
    if results := [row for row in description.results if _number(row.get("value"))]:
        lines += ["", "| data | measured | value | on |", "|---|---|---|---|"]
        for row in results:
            rest = {k: v for k, v in row.items() if k not in ("data", "metric", "value")}
            cells = (
                row.get("data", ""),
                _TITLES.get(str(row.get("metric")), row.get("metric", "")),
                f"{row['value']:.6g}",
                ", ".join(f"{key} {value}" for key, value in rest.items()),
            )
            lines.append(f"| {' | '.join(_plain(str(cell)) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """`text` as Markdown shows it: on one line, and nothing in it that would be more than text."""
    return re.sub(r"([\\`*_~&\[\]<>|#])", r"\\\1", " ".join(text.split()))
