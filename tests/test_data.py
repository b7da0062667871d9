"""`keras_agnews.data` against files of our own, the real Hub client and, where it is, AG News."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hub_server import HubServer
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_agnews import data
from keras_agnews.errors import (
    DataError,
    InputError,
    MissingDependencyError,
)

# What a file can hold: anything but NUL and lone surrogates, which are not UTF-8.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
THREE = b'"3","Mill reopens","Looms run again."\n"1","Talks","Envoys met."\n'


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KERAS_AGNEWS_DATA", raising=False)
    monkeypatch.setenv("KERAS_AGNEWS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes | str, str], Path]:
    def write(content: bytes | str, name: str = "rows.csv") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return write


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """One directory for all the examples of a property test."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def write_parquet(file: Path, columns: dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file


def read_or_error(file: Path, **columns: str) -> data.Dataset | DataError:
    try:
        return data.load(file, "train", **columns)
    except DataError as error:
        return error


# AG News from CSV.


def test_unpacks_into_texts_labels_and_names(written: Callable[..., Path]) -> None:
    file = written(THREE)
    read = data.load_agnews("test", file)
    texts, labels, label_names = read
    assert texts == ["Mill reopens Looms run again.", "Talks Envoys met."]
    assert labels.dtype == np.int32
    assert labels.tolist() == [2, 0]
    assert label_names == ("World", "Sports", "Business", "Sci/Tech")
    assert (read.note, read.source, read.split) == ("2 of 7,600 rows", str(file), "")
    with pytest.raises(TypeError, match="len"):
        len(read)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        pytest.param(b"4,Probe lands\n2,Cup won\n", ["Probe lands", "Cup won"], id="two columns"),
        pytest.param(b"4,Probe,lands\r\n2,Cup,won\r\n", ["Probe lands", "Cup won"], id="CRLF"),
        pytest.param(b"4,Probe lands\n2,Cup won", ["Probe lands", "Cup won"], id="no last end"),
        pytest.param(b"\n4,Probe lands\n\n2,Cup won\n\n", ["Probe lands", "Cup won"], id="blank"),
        pytest.param(b"\xef\xbb\xbf4,Probe lands\n 2 ,Cup won\n", ["Probe lands", "Cup won"]),
        pytest.param(
            '4,"Probe\n\ufefflands"\n2,Cup won\n'.encode(),
            ["Probe\n\ufefflands", "Cup won"],
            id="a mark within",
        ),
        pytest.param(
            '"4","a ""quoted"", part","b\nc \\\u2028\\d"\n2,,\n'.encode(),
            ['a "quoted", part b\nc \\\u2028\\d', " "],
            id="verbatim",
        ),
    ],
)
def test_reads_csv(written: Callable[..., Path], content: bytes, texts: list[str]) -> None:
    read = data.load_agnews("train", written(content))
    assert read.texts == texts
    assert read.labels.tolist() == [3, 1]


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(1, 4), TEXT, TEXT), min_size=1))
def test_reads_what_a_csv_writer_writes(scratch: Path, rows: list[tuple[int, str, str]]) -> None:
    file = scratch / "written.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    texts, labels, _ = data.load_agnews("train", file)
    assert texts == [f"{title} {description}" for _, title, description in rows]
    assert labels.tolist() == [label - 1 for label, _, _ in rows]


@pytest.mark.parametrize("quote", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_a_file_cut_at_any_byte_is_an_error_or_whole_rows(
    written: Callable[..., Path], quote: Literal[0, 1], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.csv"
    rows = [
        (1, "Zürich, again", "Trams,\nthen trains"),
        (4, "New probe", "It, too, landed"),
        (2, "Cup", "Won, 3:2"),
    ]
    with whole.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=quote, lineterminator="\n").writerows(rows)
    content = whole.read_bytes()
    first_row = content.index(b"\n4,") if quote == csv.QUOTE_MINIMAL else content.index(b'\n"4"')
    texts = data.load_agnews("train", whole).texts
    outcomes = Counter[str]()
    for end in range(first_row + 1, len(content)):
        file = written(content[:end], "cut.csv")
        read = read_or_error(file)
        if isinstance(read, DataError):
            assert re.search(r"cut\.csv, line [34]: ", str(read)), read
            outcomes["error"] += 1
        else:
            assert read.texts == texts[: len(read.texts)]
            outcomes["rows"] += 1
    # Whole rows remain after each of the three, and after the line ends of two of them.
    assert outcomes == {"error": len(content) - first_row - 5, "rows": 4}


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        pytest.param(b"", 1, "empty", id="empty"),
        pytest.param(b"\n\n", 1, "no rows", id="blank"),
        pytest.param(THREE + b'"2"\n', 3, "1 columns where the first row has 3", id="1 column"),
        pytest.param(THREE + b'"2","Cup"\n', 3, "2 columns where", id="2 columns"),
        pytest.param(THREE + b'"2","Cup","won","x"\n', 3, "4 columns where", id="4 columns"),
        pytest.param(b"2\n", 1, "1 columns", id="1 column first"),
        pytest.param(b"2;Cup;won\n", 1, "parted by commas", id="semicolons"),
        pytest.param(b"2,a,b,c\n", 1, "4 columns", id="4 columns first"),
        pytest.param(THREE + b'"0","Cup","won"\n', 3, "class '0'", id="class 0"),
        pytest.param(THREE + b'"5","Cup","won"\n', 3, "class '5'", id="class 5"),
        pytest.param(THREE + b'"","Cup","won"\n', 3, "class ''", id="no class"),
        pytest.param(THREE + b'"1.0","Cup","won"\n', 3, "class '1.0'", id="a float"),
        pytest.param("\u0663,Cup,won\n", 1, "class '\u0663'", id="another script's digit"),
        pytest.param(b"Class,Title,Description\n", 1, "delete that line", id="header"),
        pytest.param(b"Class,Title,Description\n", 1, "text column", id="another header"),
        pytest.param(b"\x1f\x8b\x08\0\0", 1, "is compressed: unpack it", id="gzip"),
        pytest.param(b"PK\3\4\x14\0", 1, "is compressed: unpack it", id="zip"),
        pytest.param(THREE + b'"2","C\xfcp","won"\n', 3, "UTF-8", id="Latin-1"),
        pytest.param(b"\xff\xfe2\x00,\x00a\x00\n\x00", 1, "UTF-8", id="UTF-16"),
        pytest.param(THREE + '"2","Zü'.encode()[:-1], 3, "UTF-8", id="cut within a character"),
        pytest.param(THREE + b'"2","C\0p","won"\n', 3, "NUL", id="NUL"),
        pytest.param(THREE + b'"2","Cup","won\n', 3, "cut off", id="open quote"),
        pytest.param(b'"2","Cup","won\n' + THREE, 1, "at line 2", id="open quote, then more"),
        pytest.param(THREE + b'"2","Cup",', 3, "ends within", id="cut after a comma"),
        pytest.param(THREE + b'"2","Cup"s","won"\n', 3, "cannot be read", id="stray quote"),
        pytest.param(b'"2","a\nb","c\nd"\n"9","x","y"\n', 4, "class '9'", id="line, not row"),
        pytest.param(b"1,a\n\n\n9,b\n", 4, "class '9'", id="after blank lines"),
    ],
)
def test_a_bad_csv_is_named_with_its_line(
    written: Callable[..., Path], content: bytes, line: int, words: str
) -> None:
    file = written(content)
    with pytest.raises(DataError) as caught:
        data.load_agnews("train", file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert words in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """As `--data <(zcat train.csv.gz)` has it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        written = pool.submit(pipe.write_bytes, THREE)
        piped = data.load(pipe, "test")
        written.result()
    file = tmp_path / "test.csv"
    file.write_bytes(THREE)
    read = data.load(file, "test")
    assert (piped.texts, piped.note) == (read.texts, read.note)


@pytest.mark.parametrize("read", [data.load_agnews, data.load_titles, data.read_rows, data.load])
def test_a_path_that_cannot_be_looked_at_is_named(read: Callable[..., Any]) -> None:
    arguments = {"path": "x" * 300 + ".csv"} | ({"split": "test"} if read is data.load else {})
    with pytest.raises(DataError, match=r"x\.csv cannot be read: File name too long"):
        read(**arguments)


@settings(deadline=None)
@given(content=st.binary() | TEXT.map(str.encode))
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_no_bytes_raise_anything_else(scratch: Path, name: str, content: bytes) -> None:
    file = scratch / name
    file.write_bytes(content)
    for columns in ({}, {"text_column": "0"}):
        read = read_or_error(file, **columns)
        if isinstance(read, DataError):
            assert str(file) in str(read)
        else:
            assert len(read.texts) == len(read.labels) > 0


def test_a_field_of_a_megabyte(written: Callable[..., Path]) -> None:
    csv.field_size_limit(131072)
    long = "ab, " * 250_000
    assert data.load_agnews("train", written(f'"1","{long}","x"\n')).texts == [f"{long} x"]
    assert data.read_rows(written(f'label,text\ny,"{long}"\n')).texts == [long]


# AG News from parquet.


def test_reads_parquet(tmp_path: Path) -> None:
    texts = ["Mill \x1f reopens", "", "Cup won \U0001f3c6"]
    file = write_parquet(
        tmp_path / "x.parquet", {"label": [2, 0, 1], "n": [1, 2, 3], "text": texts}
    )
    read = data.load_agnews("test", file)
    assert read.texts == texts
    assert read.labels.tolist() == [2, 0, 1]
    assert read.labels.dtype == np.int32
    assert read.note == "3 of 7,600 rows"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"], "topic": [1]}, "columns are text, topic"),
        ({"text": ["a", "b"], "label": [3, 4]}, "row 2: label 4"),
        ({"text": ["a", "b"], "label": [-1, 0]}, "row 1: label -1"),
        ({"text": ["a", "b"], "label": [0, None]}, "row 2: label None"),
        ({"text": ["a"], "label": [1.0]}, "row 1: label 1.0"),
        ({"text": ["a"], "label": [True]}, "row 1: label True"),
        ({"text": ["a"], "label": ["1"]}, "row 1: label '1'"),
        ({"text": ["a", None], "label": [0, 1]}, "row 2: the text"),
        ({"text": [b"a"], "label": [0]}, "row 1: the text"),
        ({"text": ["a\0b"], "label": [0]}, "row 1: the text"),
        ({"text": pyarrow.array([], pyarrow.string()), "label": []}, "no rows"),
    ],
)
def test_a_bad_parquet_is_named_with_its_row(
    tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    file = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        data.load_agnews("train", file)
    assert str(file) in str(caught.value)


def test_a_broken_parquet_is_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", {"text": ["a"] * 99, "label": [0] * 99})
    whole = file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"PAR1" + b"x" * 99 + b"PAR1"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.parquet, after row 0: not a sound parquet file"):
            data.load_agnews("train", file)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_parquet(tmp_path / "x.parquet", {"text": ["a"], "label": [0]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=re.escape('"keras-agnews[data]"')):
        data.load_agnews("train", file)


# Where AG News is looked for.


def test_a_directory_is_read_whole_and_in_order(written: Callable[..., Path]) -> None:
    directory = written("1,b\n", "d/train_b.csv").parent
    written("2,a,A\n", "d/train.csv")
    written("3,t\n", "d/test.csv")
    written("not read", "d/README.md")
    assert data.load_agnews("train", directory).texts == ["a A", "b"]
    assert data.load_agnews("test", directory).texts == ["t"]
    assert data.load_agnews("test", directory).source == str(directory)


@pytest.mark.parametrize("name", ["train.parquet", "data/train-0.parquet"])
def test_a_directory_of_parquet(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / name, {"text": ["a"], "label": [3]})
    write_parquet(tmp_path / name.replace("train", "test"), {"text": ["b"], "label": [0]})
    assert data.load_agnews("train", tmp_path).texts == ["a"]


def test_what_is_not_there_is_named_with_the_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such.*KERAS_AGNEWS_DATA.*keras-agnews\[data"):
        data.load_agnews("train", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no file train\*\.csv or"):
        data.load_agnews("train", tmp_path)
    monkeypatch.setenv("KERAS_AGNEWS_DATA", str(tmp_path / "unset"))
    with pytest.raises(DataError, match=r"KERAS_AGNEWS_DATA=.*unset: no such"):
        data.load_agnews("train")
    with pytest.raises(InputError, match="'valid' is not one of 'train', 'test'"):
        data.load_agnews("valid")


def test_a_path_comes_before_the_environment(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_AGNEWS_DATA", str(written("1,there\n", "there/test.csv").parent))
    assert data.load_agnews("test").texts == ["there"]
    assert data.load_agnews("test", written("1,here\n")).texts == ["here"]


def test_titles_come_from_the_files_that_part_them(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(
        b'1,"Quiet night","Nothing, at all"\n2, ,no title\n3,no description,\n4,Late,News\n',
        "train.csv",
    )
    written(b"1,joined text\n", "train_extra.csv")
    expected = (["Quiet night", "Late"], ["Nothing, at all", "News"])
    assert data.load_titles("train", file.parent) == expected
    monkeypatch.setenv("KERAS_AGNEWS_DATA", str(file))
    assert data.load_titles("train") == expected
    with pytest.raises(DataError, match="no file has rows of class,title,description"):
        data.load_titles("train", file.with_name("train_extra.csv"))
    with pytest.raises(DataError, match="nowhere: no such file"):
        data.load_titles("train", file.parent / "nowhere")
    with pytest.raises(InputError, match="'dev' is not one of"):
        data.load_titles("dev", file)
    monkeypatch.delenv("KERAS_AGNEWS_DATA")
    with pytest.raises(DataError, match="set KERAS_AGNEWS_DATA"):
        data.load_titles("train")


def test_the_cache_is_where_it_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data.cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("KERAS_AGNEWS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.cache_directory() == tmp_path / "xdg" / "keras_agnews"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_directory() == Path.home() / ".cache" / "keras_agnews"


def test_complete_is_said_of_the_published_file_alone(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [f"{row % 4 + 1},line {row}\n" for row in range(7600)]
    note = data.load_agnews("test", written("".join(rows))).note
    assert note == "7,600 of 7,600 rows, not the published file"
    columns = {"text": ["a"] * 7600, "label": [0] * 7600}
    file = write_parquet(tmp_path / "x.parquet", columns)
    assert data.load_agnews("test", file).note == "complete"
    assert data.load_agnews("train", file).note == "7,600 of 120,000 rows"


# Anybody's rows.


def test_reads_named_columns(written: Callable[..., Path]) -> None:
    csv_file = written('\ufeffid, body ,topic\n1,"Rain, then\nsun", weather \n2,,sport\n', "x.CSV")
    json_file = written(
        '{"body": "Rain, then\\nsun", "topic": " weather ", "id": null}\n\n'
        '{"topic": "sport", "body": ""}',
        "x.jsonl",
    )
    for file in (csv_file, json_file):
        read = data.read_rows(file, text_column="body", label_column="topic")
        assert read.texts == ["Rain, then\nsun", ""]
        assert read.label_names == ("sport", "weather")
        assert read.labels.tolist() == [1, 0]
        assert read.labels.dtype == np.int32
        assert (read.note, read.source) == ("", str(file))
        names = ("weather", "war", "sport")
        read = data.read_rows(file, text_column="body", label_column="topic", label_names=names)
        assert read.label_names == names
        assert read.labels.tolist() == [0, 2]


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.text(), st.integers() | st.text(min_size=1)), min_size=1))
def test_reads_what_a_json_writer_writes(scratch: Path, rows: list[tuple[str, int | str]]) -> None:
    rows = [row for row in rows if str(row[1]).strip()] or [("x", 1)]
    file = scratch / "written.jsonl"
    # Half of the lines with escapes, which may stand for NUL and for lone surrogates.
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    texts, labels, names = data.read_rows(file)
    assert texts == [text for text, _ in rows]
    assert [names[label] for label in labels] == [str(label).strip() for _, label in rows]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([*range(12), 11, 2], tuple(map(str, range(12)))),
        ([10, -1, 2], ("-1", "2", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["b", "a", "B"], ("B", "a", "b")),
        (["01", "1"], ("01", "1")),
    ],
)
def test_names_are_in_order_and_numbers_by_value(
    tmp_path: Path, labels: list[Any], names: tuple[str, ...]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": "x", "label": y}) + "\n" for y in labels))
    assert data.read_rows(file).label_names == names


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("x.csv", "", 1, "empty"),
        ("x.csv", "text,label\n", 1, "no rows"),
        ("x.csv", "\nbody,topic\na,b\n", 2, "0 columns are called 'text'; the header has 'body'"),
        ("x.csv", "text,label,text\na,b,c\n", 1, "2 columns are called 'text'"),
        ("x.csv", "text;label\na;b\n", 1, "has 'text;label'; columns are to be parted by commas"),
        ("x.csv", "text,label\na,b\nc\n", 3, "1 columns where the header has 2"),
        ("x.csv", "text,label\na,b\nc,d,e\n", 3, "3 columns where the header has 2"),
        ("x.csv", 'text,label\n"a\nb",x\nc,  \n', 4, "label ('label') is empty"),
        ("x.csv", 'text,label\na,b\n"c,d\n', 3, "cut off"),
        ("x.csv", 'text, label\na,b\n"c", "d"\n', 3, "the space between comma and quote"),
        ("x.csv", b"text,label\na,b\n\xe9,d\n", 3, "UTF-8"),
        ("x.csv", "text,label\na\0,b\n", 2, "NUL"),
        ("x.jsonl", "", 1, "empty"),
        ("x.jsonl", "\n", 1, "no rows"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n{"text": "a", "la', 2, "not JSON"),
        ("x.json", "[\n", 1, "not JSON"),
        ("x.jsonl", "[" * 100_000, 1, "not JSON"),
        ("x.jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}", 1, "not JSON"),
        ("x.jsonl", '["a", "b"]\n', 1, "not a JSON object"),
        ("x.jsonl", '\n{"body": "a", "label": "b"}\n', 2, "no key 'text'; the object has 'body'"),
        ("x.jsonl", '{"text": "a"}\n', 1, "no key 'label'"),
        ("x.jsonl", '{"text": null, "label": "b"}\n', 1, "'text' is not a string: None"),
        ("x.jsonl", '{"text": ["a"], "label": "b"}\n', 1, "'text' is not a string"),
        ("x.jsonl", '{"text": 3, "label": "b"}\n', 1, "'text' is not a string"),
        ("x.jsonl", '{"text": "a", "label": null}\n', 1, "neither a string nor an integer: None"),
        ("x.jsonl", '{"text": "a", "label": true}\n', 1, "neither"),
        ("x.jsonl", '{"text": "a", "label": 1.5}\n', 1, "neither"),
        ("x.jsonl", '{"text": "a", "label": " "}\n', 1, "empty"),
        ("x.jsonl", b'{"text": "\xe9", "label": "b"}\n', 1, "UTF-8"),
    ],
)
def test_bad_rows_are_named_with_their_line(
    written: Callable[..., Path], name: str, content: bytes | str, line: int, words: str
) -> None:
    file = written(content, name)
    with pytest.raises(DataError) as caught:
        data.read_rows(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_read_rows_refuses_what_makes_no_sense(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    file = written("text,label\na,x\nb,y\n")
    with pytest.raises(DataError, match=r"line 3: label 'y' is not one of x, z"):
        data.read_rows(file, label_names=["x", "z"])
    with pytest.raises(InputError, match="distinct"):
        data.read_rows(file, label_names=["x", "y", "x"])
    with pytest.raises(InputError, match="both to come from column 'a'"):
        data.read_rows(file, text_column="a", label_column="a")
    with pytest.raises(DataError, match="does not exist"):
        data.read_rows(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is a directory"):
        data.read_rows(tmp_path)
    with pytest.raises(DataError, match=r"x\.tsv ends in none of \.csv"):
        data.read_rows(written("a", "x.tsv"))


def test_load_tells_files_apart(
    written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agnews = written("2,Cup won\n", "d/test.csv")
    monkeypatch.setenv("KERAS_AGNEWS_DATA", str(agnews.parent))
    for path in (agnews, str(agnews), agnews.parent, None):
        assert data.load(path, "test").texts == ["Cup won"]
        assert data.load(path, "test").label_names == data.LABELS
    header = written("label, text\nx,y\n", "header.csv")
    assert data.load(header, "test").label_names == ("x",)
    assert data.load(written('{"text": "y", "label": "x"}', "x.jsonl"), "test").texts == ["y"]
    named = written("body,topic,label,text\np,q,r,s\n", "named.csv")
    assert data.load(named, "test", text_column="body", label_column="topic").texts == ["p"]
    assert data.load(named, "test", text_column="body").label_names == ("r",)
    assert data.load(header, "test", label_names=("y", "x")).labels.tolist() == [1]
    with pytest.raises(DataError, match=r"line 1: class 'body'.*name its text column"):
        data.load(written("body,topic\na,b\n"), "test")
    with pytest.raises(InputError, match="columns are named but no file"):
        data.load(None, "test", text_column="body")
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        data.load(tmp_path / "nowhere.jsonl", "test")
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        data.load(tmp_path / "nowhere.csv", "test")


def test_load_gives_ag_news_in_another_order_of_labels(written: Callable[..., Path]) -> None:
    file = written("1,a\n2,b\n3,c\n4,d\n4,e\n")
    names = ("Weather", "Sci/Tech", "Business", "Sports", "World")
    read = data.load(file, "train", label_names=names)
    assert read.label_names == names
    assert read.labels.tolist() == [4, 3, 2, 1, 1]
    assert read.labels.dtype == np.int32
    with pytest.raises(DataError, match=r"rows\.csv.*but Sports, Business, Sci/Tech is not among"):
        data.load(file, "train", label_names=("World", "sports"))


# The Hub: the real client, in a process of its own, against a server on this machine.

READ = """
import json, os, pathlib, sys, warnings
crash = int(sys.argv[1])
cache = pathlib.Path(os.environ["KERAS_AGNEWS_CACHE"])
replace = os.replace
def replaced(source, target):
    global crash
    if cache in pathlib.Path(target).parents:
        crash -= 1
        if crash == 0:
            os._exit(77)
    replace(source, target)
os.replace = replaced
from keras_agnews import data
from keras_agnews.errors import DownloadError
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        read = data.load_agnews("test")
    except DownloadError as error:
        json.dump({"error": str(error)}, sys.stdout)
    else:
        json.dump({"texts": read.texts, "labels": read.labels.tolist(), "note": read.note,
                   "source": read.source, "warnings": [str(w.message) for w in caught]},
                  sys.stdout)
"""
ROWS: dict[str, list[Any]] = {
    "text": [f'Line {row}, "so" to\n say\\' for row in range(7600)],
    "label": [row % 4 for row in range(7600)],
}
HUB_PATH = Path("datasets", data.HUB_REPOSITORY, data.HUB_REVISION, data.PINS["test"].parquet)


class HubUser:
    """A machine with an empty home and a Hub within reach."""

    def __init__(self, directory: Path, hub: HubServer) -> None:
        self.hub = hub
        self.hub_home = directory / "hub-home"
        self.cache = directory / "cache"
        self.environment = hub.environment(self.hub_home) | {"KERAS_AGNEWS_CACHE": str(self.cache)}
        self.environment.pop("KERAS_AGNEWS_DATA", None)

    def read(self, crash: int = 0) -> Any:
        """What a fresh process reads, or its exit status if it dies at a rename."""
        ended = subprocess.run(
            [sys.executable, "-c", READ, str(crash)],
            env=self.environment,
            stdout=subprocess.PIPE,
            check=False,
            timeout=120,
        )
        return json.loads(ended.stdout) if ended.returncode == 0 else ended.returncode

    @property
    def fetched(self) -> list[tuple[str, str]]:
        """The requests for files; the client has other things to ask, too."""
        return [(method, path) for method, path in self.hub.requests if "/resolve/" in path]

    def cached(self, suffix: str) -> Path:
        return self.cache / "ag_news" / data.HUB_REVISION / f"test.{suffix}"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[HubUser]:
    write_parquet(tmp_path / "hub" / HUB_PATH, ROWS)
    with HubServer(tmp_path / "hub") as hub:
        yield HubUser(tmp_path, hub)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_hub_is_asked_once(user: HubUser) -> None:
    expected = {
        "texts": ROWS["text"],
        "labels": ROWS["label"],
        "note": "complete",
        "source": f"{data.HUB_REPOSITORY}@{data.HUB_REVISION}",
        "warnings": [],
    }
    assert user.read() == expected
    path = (
        f"/datasets/{data.HUB_REPOSITORY}/resolve/{data.HUB_REVISION}/{data.PINS['test'].parquet}"
    )
    assert user.fetched == [("HEAD", path), ("GET", path)]
    assert sorted(file.name for file in user.cached("csv").parent.iterdir()) == [
        "test.csv",
        "test.json",
    ]
    shutil.rmtree(user.hub_home)
    assert user.read() == expected
    assert len(user.fetched) == 2

    flip_a_byte(user.cached("csv"))
    repaired = user.read()
    assert "test.csv is damaged" in repaired.pop("warnings")[0]
    assert repaired.items() <= expected.items()
    assert len(user.fetched) == 4

    # The client serves a blob that has gone bad for ever after.
    shutil.rmtree(user.cache)
    (blob,) = user.hub_home.glob("hub/datasets--*/blobs/*")
    flip_a_byte(blob)
    assert user.read() == expected
    assert len(user.fetched) == 6


@pytest.mark.parametrize("crash", [1, 2])
def test_a_crash_leaves_the_old_state_or_the_new(user: HubUser, crash: int) -> None:
    assert user.read(crash) == 77
    assert not user.cached("json").exists()
    assert user.read()["texts"] == ROWS["text"]
    assert user.cached("json").exists()


def test_another_number_of_rows_is_refused(user: HubUser) -> None:
    short = {name: values[1:] for name, values in ROWS.items()}
    write_parquet(user.hub.root / HUB_PATH, short)
    assert "has 7,599 rows, not 7,600" in user.read()["error"]
    assert not user.cache.exists()


def test_other_content_than_at_first_is_refused(user: HubUser) -> None:
    user.read()
    shutil.rmtree(user.hub_home)
    user.cached("csv").unlink()
    write_parquet(user.hub.root / HUB_PATH, ROWS | {"label": ROWS["label"][::-1]})
    refused = user.read()["error"]
    assert "when it was first fetched" in refused
    assert str(user.cached("json")) in refused


def test_no_hub_within_reach_names_the_ways(user: HubUser) -> None:
    shutil.rmtree(user.hub.root / "datasets")
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        user.environment |= environment
        error = user.read()["error"]
        assert "could not be fetched" in error
        assert "KERAS_AGNEWS_DATA" in error
    assert {method for method, _ in user.fetched} == {"HEAD"}


def test_a_cache_that_cannot_be_written_is_named(user: HubUser) -> None:
    user.cache.write_bytes(b"")
    assert "set KERAS_AGNEWS_CACHE" in user.read()["error"]


# The real rows.


def test_the_real_test_split(agnews: Path) -> None:
    read = data.load_agnews("test", agnews)
    assert read.note == "complete"
    assert np.bincount(read.labels).tolist() == [1900] * 4
    assert data.load_agnews("test", agnews / "test.csv").note == "complete"


def test_the_real_train_rows(agnews: Path) -> None:
    read = data.load_agnews("train", agnews)
    assert read.note == "62,957 of 120,000 rows"
    assert len(read.texts) == 62957
    assert set(map(type, read.texts)) == {str}


def test_a_notebook_shows_no_texts() -> None:
    rows = data.Dataset(["Oil is up"] * 9_000, np.zeros(9_000, np.int32), ("a", "b"), "", "x.csv")
    assert repr(rows).startswith("Dataset(9,000 texts, labels a, b, note=''")
    assert "Oil" not in repr(rows)


def test_a_directory_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "news"
    directory.mkdir()
    (directory / "test.csv").write_text("1,there\n")
    monkeypatch.chdir(directory)
    assert data.load_agnews("test", ".").name == data.load_agnews("test", directory).name == "news"
    with pytest.raises(DataError, match=r"~\$rows\.csv"):  # of an office that has rows.csv open
        data.load_agnews("test", "~$rows.csv")
