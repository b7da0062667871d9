"""AG News, from wherever the user has it, and anybody's CSV or JSONL files.

The AG News corpus is for research and other non-commercial use and may not be redistributed, so
the package carries none of it. `load_agnews` looks for it in this order:

1. the path given: a directory, a CSV or a parquet file;
2. the path in the environment variable `KERAS_AGNEWS_DATA`;
3. what it has fetched before, under `cache_directory()`, checked by its SHA-256;
4. the Hugging Face Hub, at a pinned commit.

Every file is read row by row and fails at the first row that is not what it should be: a
`DataError` names the file and the line. Nothing is skipped but blank lines.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_agnews import text_files
from keras_agnews.errors import DataError, DownloadError, InputError, require
from keras_agnews.files import digest, expanded, replacing

LABELS = ("World", "Sports", "Business", "Sci/Tech")


@dataclass(frozen=True)
class Pin:
    """What is known of one split as it was published.

    Attributes:
        rows: how many rows it has.
        csv_md5: MD5 of the original CSV file. It only tells the original from other files.
        parquet: the path of the split in the Hub repository, whose SHA-256 is not known here.
    """

    rows: int
    csv_md5: str
    parquet: str


HUB_REPOSITORY = "fancyzhx/ag_news"
HUB_REVISION = "eb185aade064a813bc0b7f42de02595523103ca4"
PINS = {
    "train": Pin(120_000, "b1a00f826fdfbd249f79597b59e1dc12", "data/train-00000-of-00001.parquet"),
    "test": Pin(7_600, "d52ea96a97a2d943681189a97654912d", "data/test-00000-of-00001.parquet"),
}

_DIRECTORY_PATTERNS = ("{split}*.csv", "{split}*.parquet", "data/{split}-*.parquet")
_CSV_CLASSES = {"1": 0, "2": 1, "3": 2, "4": 3}
_CSV_SHAPE = (
    "rows are class,title,description or class,text with class 1-4 and no header; "
    "for a file of another kind name its text column and its label column"
)
_TEXT_COLUMN, _LABEL_COLUMN = "text", "label"
_WAYS = (
    "give a directory with train*.csv and test*.csv (or parquet files), a CSV file or a parquet "
    "file, or set KERAS_AGNEWS_DATA to one; with neither, AG News comes from the Hub "
    '(pip install "keras-agnews[data]")'
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled texts; unpacks into `texts, labels, label_names`.

    It has no `len()`, which would have to be either three or the number of rows.

    Attributes:
        texts: n strings, as they stand in the file.
        labels: int32 `(n,)`, indices into `label_names`.
        label_names: one name a class.
        note: for AG News "complete" or, say, "62,957 of 120,000 rows"; else empty. The parts of
            `validation.split_validation` add what was held out.
        source: the path that was read, or the Hub repository with its revision.
        split: "train" or "test" of AG News; empty where nobody knows, as of a file with some of
            its rows.
    """

    texts: list[str]
    labels: np.ndarray
    label_names: tuple[str, ...]
    note: str
    source: str
    split: str = ""

    @property
    def name(self) -> str:
        """The last part of the source, which of "." is the directory's name."""
        return Path(os.path.abspath(self.source)).name

    def __repr__(self) -> str:
        # In a notebook, of a split it would be all its texts.
        return (
            f"Dataset({len(self.texts):,} texts, labels {', '.join(self.label_names[:20])}, "
            f"note={self.note!r}, source={self.source!r}, split={self.split!r})"
        )

    def __iter__(self) -> Iterator[Any]:
        return iter((self.texts, self.labels, self.label_names))


def cache_directory() -> Path:
    """Where this package keeps what it fetched; it need not exist yet.

    `KERAS_AGNEWS_CACHE`, else `keras_agnews` under `XDG_CACHE_HOME`, else under `~/.cache`.
    """
    own = os.environ.get("KERAS_AGNEWS_CACHE")
    if own:
        return expanded(own)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(base) / "keras_agnews"


def load_agnews(split: str = "train", path: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a split of AG News.

    CSV rows are `class,title,description` with class 1-4 and no header, and the text is title,
    space, description; rows of two columns are `class,text`. Parquet files have the columns
    `text` and `label` (0-3). The split of a directory is every `{split}*.csv` in it, in the order
    of their names, else every `{split}*.parquet`, else every `data/{split}-*.parquet`.

    Args:
        split: "train" or "test". Of a single file it is what the file is counted against.
        path: a directory, a CSV or a parquet file. Where it is `None`, the order of this
            module's docstring holds.

    Returns:
        A `Dataset` whose label names are `LABELS`. Its note is "complete" where the number of
        rows and, for a single CSV file, its MD5 are the published ones.

    Raises:
        DataError: a missing path, or a file that cannot be read; it names file and line.
        DownloadError: the Hub cannot be reached, or what came is not what was pinned.
        MissingDependencyError: pyarrow is needed and not installed.
        InputError: no such split.

    Example:
        >>> texts, labels, label_names = load_agnews("test")  # doctest: +SKIP
    """
    if split not in PINS:
        raise InputError(f"split {split!r} is not one of {', '.join(map(repr, PINS))}")
    if path is not None:
        return _read_agnews(expanded(path), split, str(path))
    configured = os.environ.get("KERAS_AGNEWS_DATA")
    if configured:
        place = expanded(configured)
        return _read_agnews(place, split, f"KERAS_AGNEWS_DATA={configured}")
    return _from_cache(split) or _from_hub(split)


def load_titles(
    split: str = "train", path: str | os.PathLike[str] | None = None
) -> tuple[list[str], list[str]]:
    """Read titles and descriptions of a split of AG News, from the CSV files that part them.

    Files of `class,text` rows and parquet files hold a joined text and are passed over, and so are
    rows whose title or description is empty.

    Args:
        split: "train" or "test"; as for `load_agnews`.
        path: a directory or a CSV file; where it is `None`, `KERAS_AGNEWS_DATA` has it.

    Returns:
        As many titles as descriptions, in the order of the rows.

    Raises:
        DataError: no path, a file that cannot be read, or none with titles.
        InputError: no such split.
    """
    if split not in PINS:
        raise InputError(f"split {split!r} is not one of {', '.join(map(repr, PINS))}")
    place = path or os.environ.get("KERAS_AGNEWS_DATA")
    if not place:
        raise DataError(
            "titles are read from the original CSV files alone (class,title,description): give "
            "the directory, or set KERAS_AGNEWS_DATA to it"
        )
    root = expanded(place)
    if not _exists(root):
        raise DataError(f"{place}: no such file or directory")
    titles, descriptions = [], []
    for file in _split_files(root, split) if root.is_dir() else [root]:
        for parts, _ in () if _is_parquet(file) else _agnews_rows(file):
            if len(parts) == 2 and parts[0].strip() and parts[1].strip():
                titles.append(parts[0])
                descriptions.append(parts[1])
    if not titles:
        raise DataError(f"{place}: no file has rows of class,title,description")
    return titles, descriptions


def read_rows(
    path: str | os.PathLike[str],
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """Read labelled texts from a CSV file with a header, or a JSONL file of one object a line.

    Texts are kept as they stand. Labels are strings, stripped of outer white space; a JSON
    integer is taken as the string of its digits.

    Args:
        path: a file that ends in `.csv`, `.jsonl`, `.ndjson` or `.json`.
        text_column: the column or key of the text, "text" where it is `None`.
        label_column: the column or key of the label, "label" where it is `None`.
        label_names: the classes, in order; `None` for those of the file, sorted.

    Raises:
        DataError: a file that cannot be read, a text that is not a string, an empty label, or
            one that is not among `label_names`; it names file and line.
        InputError: arguments that contradict each other.
    """
    file = expanded(path)
    text_column = _TEXT_COLUMN if text_column is None else text_column
    label_column = _LABEL_COLUMN if label_column is None else label_column
    if text_column == label_column:
        raise InputError(f"text and label are both to come from column {text_column!r}")
    positions = None if label_names is None else _positions(label_names)
    if not _exists(file):
        raise DataError(f"{file} does not exist; name a CSV file with a header or a JSONL file")
    if file.is_dir():
        raise DataError(f"{file} is a directory; name one CSV or JSONL file")
    if file.suffix.lower() not in _READERS:
        raise DataError(f"{file} ends in none of {', '.join(_READERS)}")

    texts, names = [], []
    for line, text, label in _READERS[file.suffix.lower()](file, text_column, label_column):
        if not label:
            raise DataError(f"{file}, line {line}: the label ({label_column!r}) is empty")
        if re.search("[\ud800-\udfff]", label):
            raise DataError(
                f"{file}, line {line}: the label {label!r} holds half a surrogate pair, a broken "
                "character"
            )
        if positions is not None and label not in positions:
            raise DataError(
                f"{file}, line {line}: label {label!r} is not one of {', '.join(positions)}"
            )
        texts.append(text)
        names.append(label)
    if not texts:
        raise DataError(f"{file}, line 1: the file holds no rows")
    positions = positions or _positions(_in_order(set(names)))
    labels = np.array([positions[name] for name in names], np.int32)
    return Dataset(texts, labels, tuple(positions), "", str(file))


def load(
    path: str | os.PathLike[str] | None,
    split: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """Read what a user names: AG News by `load_agnews`, or other rows by `read_rows`.

    It is `read_rows` if a column is named, if the file is JSONL, or if it is a CSV file whose
    first row has the columns `text` and `label`; then `split` plays no part.

    Args:
        path: as for either; `None` is AG News from where `load_agnews` finds it.
        split: "train" or "test", of AG News.
        text_column: as for `read_rows`.
        label_column: as for `read_rows`.
        label_names: the classes, in the order wanted; `None` for the data's own.

    Raises:
        DataError: as for either, or a label of the rows is not among `label_names`.
        InputError: columns are named and no path is.
    """
    named = text_column is not None or label_column is not None
    if path is None and named:
        raise InputError("columns are named but no file; give the path of a CSV or JSONL file")
    if path is not None and (named or _names_its_columns(expanded(path))):
        return read_rows(
            path, text_column=text_column, label_column=label_column, label_names=label_names
        )
    dataset = load_agnews(split, path)
    return dataset if label_names is None else _relabel(dataset, label_names)


def _in_order(names: set[str]) -> list[str]:
    """Sorted; numbers by their value, so that of 0 to 11 each is at its own position."""
    if all(re.fullmatch("-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _positions(label_names: Sequence[str]) -> dict[str, int]:
    positions = {name: index for index, name in enumerate(label_names)}
    if len(positions) != len(label_names) or not positions:
        raise InputError(f"label names must be present and distinct, not {list(label_names)}")
    return positions


def _relabel(dataset: Dataset, label_names: Sequence[str]) -> Dataset:
    positions = _positions(label_names)
    missing = [name for name in dataset.label_names if name not in positions]
    if missing:
        raise DataError(
            f"{dataset.source}: the rows are labeled {', '.join(dataset.label_names)}, "
            f"but {', '.join(missing)} is not among {', '.join(label_names)}"
        )
    table = np.array([positions[name] for name in dataset.label_names], np.int32)
    return dataclasses.replace(
        dataset, labels=table[dataset.labels], label_names=tuple(label_names)
    )


# Lines and rows of any file.


def _exists(path: Path) -> bool:
    """Whether there is a file or directory; `DataError` where one cannot tell."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return True


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, ends included, in constant memory."""
    line = 0
    try:
        # Lines are cut as bytes, so that a fault in one is known to be in that one.
        with path.open("rb") as file:
            for line, raw in enumerate(file, 1):
                if line == 1 and raw.startswith((b"\x1f\x8b", b"PK\3\4")):
                    raise DataError(f"{path}, line 1: the file is compressed: unpack it")
                if b"\0" in raw:
                    raise DataError(f"{path}, line {line}: a NUL byte; save the file as UTF-8")
                yield raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {line}: not UTF-8 ({error.reason} at byte {error.start} of the line); "
            "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not line:
        raise DataError(f"{path}, line 1: the file is empty")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line at which each begins; blank lines are left out."""
    # The limit is the process's: it is raised and stays so, since another thread may be reading.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    reader = csv.reader(_lines(path), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {line}: the row that begins here cannot be read: {error} at line "
                f"{reader.line_num} (is a quote never closed, or the row cut off?)"
            ) from error
        if row:
            yield line, row


# AG News from files.


def _read_agnews(path: Path, split: str, origin: str) -> Dataset:
    if not _exists(path):
        raise DataError(f"{origin}: no such file or directory; {_WAYS}")
    files = _split_files(path, split) if path.is_dir() else [path]
    texts: list[str] = []
    labels: list[int] = []
    for file in files:
        read = _read_agnews_parquet if _is_parquet(file) else _read_agnews_csv
        for text, label in read(file):
            texts.append(text)
            labels.append(label)
    pin = PINS[split]
    note = f"{len(texts):,} of {pin.rows:,} rows"
    if len(texts) == pin.rows:
        if len(files) > 1 or _is_parquet(files[0]):
            note = "complete"
        elif files[0].is_file():  # what came through a pipe cannot be read again
            published = digest(files[0], "md5") == pin.csv_md5
            note = "complete" if published else f"{note}, not the published file"
    known = split if path.is_dir() or note == "complete" else ""
    return Dataset(texts, np.array(labels, np.int32), LABELS, note, str(path), known)


def _split_files(directory: Path, split: str) -> list[Path]:
    patterns = [pattern.format(split=split) for pattern in _DIRECTORY_PATTERNS]
    for pattern in patterns:
        files = sorted(file for file in directory.glob(pattern) if file.is_file())
        if files:
            return files
    raise DataError(f"{directory} has no file {' or '.join(patterns)}; {_WAYS}")


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


def _read_agnews_csv(file: Path) -> Iterator[tuple[str, int]]:
    return ((" ".join(parts), label) for parts, label in _agnews_rows(file))


def _agnews_rows(file: Path) -> Iterator[tuple[list[str], int]]:
    """Title and description, or the joined text alone, and the class of each row."""
    width = line = 0
    for line, row in _csv_rows(file):
        header = not width and not re.fullmatch(r"\s*[0-9]*\s*", row[0])  # by the look of it
        width = width or len(row)
        if width not in (2, 3):
            raise DataError(
                f"{file}, line {line}: {width} columns{_parted_otherwise(row)} ({_CSV_SHAPE})"
            )
        if len(row) != width:
            raise DataError(
                f"{file}, line {line}: {len(row)} columns where the first row has {width} "
                "(is the row cut off?)"
            )
        label = _CSV_CLASSES.get(row[0].strip())
        if label is None:
            raise DataError(
                f"{file}, line {line}: class {row[0][:40]!r} is not 1, 2, 3 or 4 "
                + (
                    "(if it is AG News with a header, delete that line; if it is not, name its "
                    "text column and its label column)"
                    if header
                    else f"({_CSV_SHAPE})"
                )
            )
        yield row[1:], label
    if not width:
        raise DataError(f"{file}, line 1: the file holds no rows")
    if not file.is_file():
        return  # a pipe: its end is gone
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read() == b",":
            raise DataError(f"{file}, line {line}: the file ends within this row")


def _read_agnews_parquet(file: Path) -> Iterator[tuple[str, int]]:
    arrow = require("pyarrow", "data", "to read parquet files")
    parquet = require("pyarrow.parquet", "data", "to read parquet files")
    row = 0
    try:
        with parquet.ParquetFile(file) as content:
            columns = content.schema_arrow.names
            for name in (_TEXT_COLUMN, _LABEL_COLUMN):
                if columns.count(name) != 1:
                    raise DataError(
                        f"{file}: the columns are {', '.join(columns)}; AG News has text and label"
                    )
            for batch in content.iter_batches(columns=[_TEXT_COLUMN, _LABEL_COLUMN]):
                values = batch.to_pydict()
                for text, label in zip(values[_TEXT_COLUMN], values[_LABEL_COLUMN], strict=True):
                    row += 1
                    if not isinstance(text, str) or "\0" in text:
                        raise DataError(f"{file}, row {row}: the text is no string without NUL")
                    if type(label) is not int or not 0 <= label < len(LABELS):
                        raise DataError(f"{file}, row {row}: label {label!r} is not 0, 1, 2 or 3")
                    yield text, label
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{file}, after row {row}: not a sound parquet file: {error}") from error
    if not row:
        raise DataError(f"{file}: the file holds no rows")


# Other people's rows: each reader yields line, text, stripped label.


def _names_its_columns(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".csv" and os.path.isfile(file):
        _, header = next(_csv_rows(file), (0, []))
        return {_TEXT_COLUMN, _LABEL_COLUMN} <= {name.strip() for name in header}
    return suffix in _READERS and suffix != ".csv"


def _parted_otherwise(row: list[str]) -> str:
    """What is to be said of a row that looks as if something else than commas parted it."""
    parted = len(row) == 1 and set(row[0]) & set(";\t|")
    return "; columns are to be parted by commas" if parted else ""


def _csv_records(file: Path, text_column: str, label_column: str) -> Iterator[tuple[int, str, str]]:
    rows = _csv_rows(file)
    line, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    for name in (text_column, label_column):
        if names.count(name) != 1:
            raise DataError(
                f"{file}, line {line}: {names.count(name)} columns are called {name!r}; "
                f"the header has {_shown(names)}{_parted_otherwise(names)}"
            )
    text, label = names.index(text_column), names.index(label_column)
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{file}, line {line}: {len(row)} columns where the header has {len(names)} "
                "(is the row cut off?)"
            )
        name = row[label].strip()
        if name != row[label] and len(name) > 1 and name[0] == name[-1] == '"':
            raise DataError(
                f"{file}, line {line}: the label {name} has its quotes within: take away the space "
                "between comma and quote, here and in other rows"
            )
        yield line, row[text], name


def _json_records(
    file: Path, text_column: str, label_column: str
) -> Iterator[tuple[int, str, str]]:
    for line, content in enumerate(_lines(file), 1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file}, line {line}: not JSON ({error}); each line is one object"
            ) from error
        if not isinstance(record, dict):
            raise DataError(f"{file}, line {line}: not a JSON object; each line is one object")
        for name in (text_column, label_column):
            if name not in record:
                raise DataError(
                    f"{file}, line {line}: no key {name!r}; the object has {_shown(record)}"
                )
        text, label = record[text_column], record[label_column]
        if not isinstance(text, str):
            raise DataError(f"{file}, line {line}: {text_column!r} is not a string: {text!r:.40}")
        if type(label) is not int and not isinstance(label, str):
            raise DataError(
                f"{file}, line {line}: {label_column!r} is neither a string nor an integer: "
                f"{label!r:.40}"
            )
        yield line, text, str(label).strip()


_READERS = {
    ".csv": _csv_records,
    ".jsonl": _json_records,
    ".ndjson": _json_records,
    ".json": _json_records,
}


def _shown(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")


# AG News from the Hub. A split is kept as `{split}.csv` and `{split}.json`, which is written last,
# says what the rows came from and holds the sum of the CSV file: one without the other, or with
# the wrong sum, is no cache.


def _cache_files(split: str) -> tuple[Path, Path]:
    folder = cache_directory() / "ag_news" / HUB_REVISION
    return folder / f"{split}.csv", folder / f"{split}.json"


def _hub_dataset(texts: list[str], labels: list[int], split: str) -> Dataset:
    source = f"{HUB_REPOSITORY}@{HUB_REVISION}"
    return Dataset(texts, np.array(labels, np.int32), LABELS, "complete", source, split)


def _record(file: Path) -> dict[str, object]:
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _from_cache(split: str) -> Dataset | None:
    rows_file, record_file = _cache_files(split)
    record = _record(record_file)
    if not record or not rows_file.is_file():
        return None
    if record.get("csv_sha256") != digest(rows_file, "sha256"):
        warnings.warn(f"{rows_file} is damaged and is fetched again", stacklevel=3)
        return None
    texts, labels = zip(*_read_agnews_csv(rows_file), strict=True)
    return _hub_dataset(list(texts), list(labels), split)


def _from_hub(split: str) -> Dataset:
    # Missed now, rather than after the download.
    require("pyarrow.parquet", "data", "to read AG News as the Hub has it")
    pin = PINS[split]
    file, parquet_sha256 = _download(pin.parquet)
    rows_file, record_file = _cache_files(split)
    recorded = _record(record_file).get("parquet_sha256", parquet_sha256)
    if recorded != parquet_sha256:
        raise DownloadError(
            f"{pin.parquet} of {HUB_REPOSITORY} has SHA-256 {parquet_sha256}, but had {recorded} "
            f"when it was first fetched; if that is right, delete {record_file}"
        )
    texts, labels = map(list, zip(*_read_agnews_parquet(file), strict=True))
    if len(texts) != pin.rows:
        raise DownloadError(
            f"{pin.parquet} of {HUB_REPOSITORY} has {len(texts):,} rows, not {pin.rows:,}"
        )
    record = {
        "source": f"{HUB_REPOSITORY}@{HUB_REVISION}",
        "file": pin.parquet,
        "parquet_sha256": parquet_sha256,
    }
    try:
        rows_file.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(rows_file) as passing,
            passing.open("x", encoding="utf-8", newline="") as stream,
        ):
            writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows((label + 1, text) for text, label in zip(texts, labels, strict=True))
        record["csv_sha256"] = digest(rows_file, "sha256")
        text_files.write_json(record_file, record)
    except OSError as error:
        raise DownloadError(
            f"{rows_file.parent} cannot be written ({error.strerror or error}); set "
            "KERAS_AGNEWS_CACHE to a directory that can"
        ) from error
    return _hub_dataset(texts, labels, split)


def _download(path: str) -> tuple[Path, str]:
    """A file of the pinned data set in the Hub's own cache, and its SHA-256."""
    import huggingface_hub

    for force in (False, True):
        try:
            file = Path(
                huggingface_hub.hf_hub_download(
                    HUB_REPOSITORY,
                    path,
                    repo_type="dataset",
                    revision=HUB_REVISION,
                    force_download=force,
                )
            )
        # The client lets through what its HTTP library raises, and has changed that library before.
        except Exception as error:
            raise DownloadError(
                f"{path} of {HUB_REPOSITORY} at {HUB_REVISION[:12]} could not be fetched: "
                f"{error}; {_WAYS}"
            ) from error
        sha256 = digest(file, "sha256")
        # The client links to a blob that it names by the sum the Hub declares, and never checks.
        # One link only: a shared blob goes on to a name which is another kind of sum.
        declared = Path(os.readlink(file)).name if file.is_symlink() else ""
        if declared == sha256 or not re.fullmatch("[0-9a-f]{64}", declared):
            return file, sha256
    raise DownloadError(f"{file} has SHA-256 {sha256}, but the Hub declares {declared}")
