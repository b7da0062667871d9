"""The command: what it prints where, its exit codes, and that it streams."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import keras_agnews
from keras_agnews import __version__, bundle, metrics, registry, text_files
from keras_agnews.cli import commands
from keras_agnews.configs import TransformerConfig
from keras_agnews.errors import InputError
from keras_agnews.streams import read_lines

LABELS = ("World", "Sports", "Business", "Sci/Tech")
TEXTS = (
    "Troops leave the border as peace talks begin",
    "Late goal in overtime, and the coach is out of words",
    "Oil prices and bank shares: a new profit",
    "A probe for the far side of the moon",
    "The minister calls a vote",
    "Striker out for the season",
    "",
)
WORDS = sorted({word.strip(",:").lower() for text in TEXTS for word in text.split()})


def write_bundle(directory: Path, **changes) -> Path:
    """A small bundle with random weights, whose answers are the same on every backend."""
    vocabulary = ("", "[UNK]", *WORDS)
    values = {
        "name": directory.name,
        "builder": "transformer",
        "config": TransformerConfig(vocabulary_size=len(vocabulary), max_positions=16),
        "tokenizer": {"kind": "words"},
        "max_length": 16,
        "labels": LABELS,
        "results": ({"data": "ag_news test", "metric": "accuracy", "value": 0.918},),
    }
    description = bundle.Bundle(**(values | changes))
    rng = np.random.default_rng(2)  # a seed that gives several labels
    tensors = {
        name: rng.normal(0, 0.7, shape).astype(np.float32)
        for name, shape in description.variables().items()
    }
    bundle.write(directory, description, vocabulary, tensors)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("zoo") / "scratch")


@pytest.fixture
def invoke():
    def run(*arguments, stdin=None, code=0):
        result = CliRunner().invoke(commands, list(map(str, arguments)), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


def start(*arguments, **kwargs) -> subprocess.Popen:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-m", "keras_agnews", *map(str, arguments)]
    return subprocess.Popen(command, **(pipes | kwargs))


def run_with_registered(directory: Path, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
    """The command in a process where a third party has registered a directory of bundles."""
    code = (
        "import sys, keras_agnews; keras_agnews.register(sys.argv.pop(1)); "
        "from keras_agnews.cli import main; main()"
    )
    command = [sys.executable, "-c", code, str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


# The zoo, for which no backend is needed.


def test_version(invoke):
    assert invoke("--version").stdout == f"keras-agnews {__version__}\n"


@pytest.mark.parametrize("arguments", [["list"], ["info", "MODEL"], ["--help"]])
def test_no_backend_is_imported(model, arguments):
    code = """
import sys
from keras_agnews.cli import commands
commands([sys.argv[1] if a == "MODEL" else a for a in sys.argv[2:]], standalone_mode=False)
heavy = {"keras", "tensorflow", "jax", "torch", "transformers", "pandas", "pyarrow", "rich"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code, str(model), *arguments], check=True, capture_output=True
    )


def test_list_shows_what_a_third_party_registered(model):
    root = model.parent
    write_bundle(root / "other", results=(), max_length=8)
    (root / "broken").mkdir(exist_ok=True)
    (root / "broken" / "config.json").write_text('{"format": "keras-agnews"}')
    result = run_with_registered(root, "list", "*", env=os.environ | {"COLUMNS": "40"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines}
    size = sum(
        (model / name).stat().st_size for name in ("config.json", "model.safetensors", "vocab.txt")
    )
    parameters = bundle.read(model).parameters
    row = re.fullmatch(r"scratch +(\S+)  +(\S+)  +(\S+ kB)  (.*)", rows["scratch"])
    assert row, rows["scratch"]
    assert int(row[1].replace(",", "")) == parameters
    assert row[2] == "91.8%"
    assert float(row[3].removesuffix(" kB")) == pytest.approx(size / 1000, rel=0.01)
    assert row[4] == str(model)  # whole, however long
    assert "%" not in rows["other"]
    assert "broken: " in rows["broken"]
    assert str(root / "broken" / "config.json") in rows["broken"]
    column = lines[0].index("weights")
    assert rows["scratch"][column:] == str(model)
    assert rows["broken"][column:].startswith("broken: ")

    filtered = run_with_registered(root, "list", "*oth*", "--format", "json")
    (entry,) = json.loads(filtered.stdout)
    assert entry["name"] == "other"
    assert entry["accuracy"] is None
    assert entry["parameters"] == parameters


def test_info_tells_a_figure_of_each_data(model, invoke):
    both = [{"data": data, "metric": "accuracy", "value": 0.9} for data in ("test", "validation")]
    write_bundle(model.parent / "both", results=tuple(both))
    shown = invoke("info", model.parent / "both").stdout
    assert re.search(r"^result.accuracy +0.9 \(data test\); 0.9 \(data validation\)$", shown, re.M)


def test_list_tells_validation_from_test(model):
    own = {"data": "validation", "metric": "accuracy", "value": 0.95}
    write_bundle(model.parent / "trained", results=(own,))
    measured = {"data": "agnews test", "metric": "accuracy", "value": 0.9}
    write_bundle(model.parent / "measured", results=(own, measured))
    result = run_with_registered(model.parent, "list")
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert " 95.0% of validation " in rows["trained"]
    assert " 90.0% " in rows["measured"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals on this system")
def test_list_is_a_table_on_a_terminal(model):
    ours, theirs = os.openpty()
    code = "import keras_agnews, sys; keras_agnews.register(sys.argv.pop(1)); " + (
        "from keras_agnews.cli import main; main()"
    )
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(model), "list", "scratch"], stdout=theirs, env=environment
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 4096):
            output += part
    except OSError:  # how Linux tells the end
        pass
    os.close(ours)
    assert process.wait() == 0
    assert b"\x1b[1m" in output
    assert "─".encode() in output
    lines = re.sub(rb"\x1b\[[0-9;]*m", b"", output).decode().splitlines()
    assert max(map(len, lines)) <= 60


def test_nothing_matches(invoke):
    assert "no model matches 'xyz*'" in invoke("list", "xyz*", code=1).stderr
    assert json.loads(invoke("list", "xyz*", "--format", "json").stdout) == []


def test_info(model, invoke):
    shown = dict(
        line.split("  ", 1) for line in invoke("info", model).stdout.splitlines() if "  " in line
    )
    shown = {key: value.strip() for key, value in shown.items()}
    assert shown["labels"] == ", ".join(LABELS)
    assert shown["parameters"] == f"{bundle.read(model).parameters:,}"
    assert shown["config.max_positions"] == "16"
    assert shown["result.accuracy"] == "0.918 (data ag_news test)"
    values = json.loads(invoke("info", model, "--format", "json").stdout)
    assert values["parameters"] == bundle.read(model).parameters
    assert values["directory"] == str(model)
    config = json.loads((model / "config.json").read_text())
    assert {key: values[key] for key in config} == config


def test_a_bundle_cannot_steer_the_terminal(tmp_path, invoke):
    hostile = write_bundle(tmp_path / "hostile", labels=("\x1b[2J", "a\nname   fake"))
    output = invoke("info", hostile).stdout
    assert "\x1b" not in output
    assert not any(line.startswith("name   fake") for line in output.splitlines())
    values = json.loads((hostile / "config.json").read_text())
    values["config"]["\x1b]0;owned\x07"] = 1
    (hostile / "config.json").write_text(json.dumps(values))
    refused = invoke("info", hostile, code=1).output
    assert "owned" in refused
    assert "\x1b" not in refused
    assert "\x07" not in refused


def test_an_unknown_model_is_one_line():
    process = start("info", "tiny-tranformer")
    output, errors = process.communicate()
    assert process.returncode == 1
    assert output == b""
    assert re.fullmatch(rb"Error: 'tiny-tranformer' is neither .*\n", errors)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["classify", "-", "a text"], "cannot be mixed"),
        (["classify", "minilm-L6", "a text"], "minilm-L6 is a model, no text"),
        (["classify", "a", "--top", "0"], "0 is not in the range"),
        (["classify", "a", "--backend", "theano"], "'theano' is not one of"),
        (["--backend", "theano", "list"], "'theano' is not one of"),
        (["train", "tiny-transformer"], "--output"),
        (["train", "x", "--output", "y", "--epochs", "0"], "0 is not in the range"),
        (["train", "x", "--output", "y", "--validation-fraction", "1"], "1.0 is not in the range"),
    ],
)
def test_usage_errors(invoke, arguments, says):
    assert says in invoke(*arguments, code=2).stderr


def test_a_directory_with_a_model_is_no_text(model, invoke):
    assert "is a model, no text" in invoke("classify", model, "a text", code=2).stderr
    long, hostile = "a/" * 5_000, "a\0b"
    for text in (model.name, str(model / "config.json"), long, hostile):
        assert len(invoke("classify", text, "--model", model).stdout.splitlines()) == 1


def test_an_absent_backend_is_one_line(model, invoke, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    assert "KERAS_BACKEND is 'theano'" in invoke("classify", "a", "--model", model, code=1).stderr
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    errors = invoke("classify", "a", "--model", model, code=1).stderr
    assert 'pip install "keras-agnews[jax]"' in errors


def test_a_closed_output_ends_quietly(model):
    process = start("info", model)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.skipif(
    not Path("/dev/full").is_char_device(), reason="this system has no device /dev/full"
)
def test_a_full_disk_is_one_line(model):
    with open("/dev/full", "w") as full:
        process = start("info", model, stdout=full)
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == b"Error: [Errno 28] No space left on device\n"


# Lines of a stream.


class Pieces(io.BytesIO):
    """Bytes that come in pieces, as from a pipe."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = [piece for piece in pieces if piece]

    def read1(self, size: int | None = -1, /) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\n", b"\r\n", b"\xef\xbb\xbf", b"\r"])))
def test_lines_do_not_depend_on_pieces(pieces):
    content = b"".join(pieces)
    expected = [
        line.removesuffix(b"\r").decode("utf-8", "replace")
        for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    ]
    if content.endswith(b"\n") or not content:
        expected.pop()
    if content == b"\xef\xbb\xbf":
        expected = [""]
    assert [line for lines in read_lines(Pieces(pieces)) for line in lines] == expected


def test_a_line_is_given_when_its_end_has_come():
    batches = read_lines(Pieces([b"one\ntw", b"o\nthr", b"ee"]))
    assert list(batches) == [["one"], ["two"], ["three"]]


def test_many_short_lines_are_given_in_parts():
    batches = list(read_lines(Pieces([b"\n" * 100_000])))
    assert sum(map(len, batches)) == 100_000
    assert max(map(len, batches)) < 10_000


def test_a_long_line_is_not_copied_again_and_again():
    start = time.monotonic()
    ((line,),) = read_lines(Pieces([b"x" * 1_000] * 50_000))
    assert len(line) == 50_000_000
    assert time.monotonic() - start < 10  # quadratic, it would be minutes


def test_a_writer_that_never_pauses_is_answered_all_the_same(monkeypatch):
    """A line every 4 milliseconds, which is as soon as more is waited for."""
    clock = [0.0]

    class Log(Pieces):
        def read1(self, size: int | None = -1, /) -> bytes:
            clock[0] += 0.004
            return super().read1(size)

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("keras_agnews.streams._more_comes", lambda stream: True)
    batches = list(read_lines(Log([b"a line\n"] * 1_000)))
    assert sum(map(len, batches)) == 1_000
    assert 5 < len(batches[0]) < 20
    assert max(map(len, batches)) == len(batches[0])


# Answers.


@pytest.mark.backend
def test_classify_answers_as_the_library_does(model, invoke):
    import keras_agnews

    expected = keras_agnews.load(model).classify(list(TEXTS))
    assert len({answer.label for answer in expected}) > 1  # else the test says little
    result = invoke("classify", "--model", model, "--format", "jsonl", *TEXTS)
    assert result.stderr == ""
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["text"] for record in records] == list(TEXTS)
    for record, answer in zip(records, expected, strict=True):
        assert set(record) == {"text", "label", "score", "scores", "truncated"}
        assert record["label"] == answer.label == max(record["scores"], key=record["scores"].get)
        assert record["score"] == record["scores"][record["label"]]
        assert tuple(record["scores"]) == LABELS
        assert record["scores"] == pytest.approx(answer.scores, abs=1e-5)
        assert sum(record["scores"].values()) == pytest.approx(1, abs=1e-5)
    piped = invoke("classify", "--model", model, "--format", "jsonl", stdin="\n".join(TEXTS) + "\n")
    for record, again in zip(records, map(json.loads, piped.stdout.splitlines()), strict=True):
        assert (again["text"], again["label"]) == (record["text"], record["label"])

    lines = invoke("classify", "--model", model, *TEXTS).stdout.splitlines()
    for line, text, answer in zip(lines, TEXTS, expected, strict=True):
        assert line.split() == [answer.label, f"{answer.score:.3f}", *text.split()]


@pytest.mark.backend
@pytest.mark.once
def test_hard_texts_are_one_line_each(model, invoke):
    texts = ("two\nlines", "\x1b[31mred", "a\udcffb", "nul\0", "é 漢字", "the " * 17, "the " * 16)
    lines = invoke("classify", "--model", model, "--format", "jsonl", *texts).stdout.split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["text"] for line in lines] == list(texts)
    assert [json.loads(line)["truncated"] for line in lines] == [False] * 5 + [True, False]
    lines = invoke("classify", "--model", model, *texts).stdout.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(texts)
    assert "\x1b" not in "".join(lines)


@pytest.mark.backend
@pytest.mark.once
def test_top_labels_are_the_best(model, invoke):
    arguments = ("classify", TEXTS[0], "--model", model, "--format", "jsonl")
    whole = json.loads(invoke(*arguments).stdout)["scores"]
    best = json.loads(invoke(*arguments, "--top", 2).stdout)["scores"]
    assert list(best.items()) == sorted(whole.items(), key=lambda item: -item[1])[:2]


@pytest.mark.backend
@pytest.mark.once
@pytest.mark.skipif(os.name != "posix", reason="of POSIX's streams")
def test_streams_that_a_parent_left_odd(model):
    """A pipe that does not block, which reads as empty before its end; and no error stream."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    process = start("classify", "--model", model, "--format", "jsonl", stdin=readable)
    os.close(readable)
    with os.fdopen(writable, "wb", buffering=0) as pipe:
        for text in (b"Oil prices\n", b"The match\n"):
            pipe.write(text)
            assert json.loads(process.stdout.readline())["label"] in LABELS
    assert process.stdout.read() == b""
    assert process.wait() == 0
    command = f'"{sys.executable}" -m keras_agnews classify --model nowhere x 2>&-'
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.backend
@pytest.mark.once
def test_a_slow_stream_is_answered_line_by_line(model):
    process = start("classify", "--model", model, "--format", "jsonl", "-")
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        # Each answer is read before the next line is written, so one that waited would hang.
        for line, text in (
            (b"Oil prices\r\n", "Oil prices"),
            (b"\n", ""),
            (b"caf\xc3\xa9 \xff\n", "caf\u00e9 \ufffd"),
        ):
            process.stdin.write(line)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
    assert output == b""
    assert errors == b"Interrupted\n"
    assert process.returncode == 130


@pytest.mark.backend
@pytest.mark.slow
def test_a_reader_that_stops_is_no_error(model, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("Oil prices\n" * 300_000)  # more than a pipe holds, in and out
    with lines.open("rb") as stdin:
        process = start("classify", "--model", model, stdin=stdin)
        assert process.stdout.readline().endswith(b"Oil prices\n")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.backend
@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_a_long_stream_takes_constant_memory(model):
    count, settled = 120_000, 40_000
    tail = " late" * 200
    process = start("classify", "--model", model, "--format", "jsonl")

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            for i in range(count):
                process.stdin.write(f"{i} {TEXTS[i % len(TEXTS)]}{tail}\n".encode())

    def memory() -> int:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    writer = threading.Thread(target=write)
    writer.start()
    before = most = answered = 0
    for i, line in enumerate(process.stdout):
        assert json.loads(line)["text"] == f"{i} {TEXTS[i % len(TEXTS)]}{tail}"
        answered += 1
        if i == settled:
            before = memory()
        elif i > settled and i % 10_000 == 0:
            most = max(most, memory())
    writer.join()
    assert (process.stderr.read(), process.wait(), answered) == (b"", 0, count)
    # The texts alone of the 80,000 lines since then are 80 MB.
    assert most - before < 40e6


@pytest.mark.once
def test_what_lies_elsewhere_is_named_with_the_way_on(invoke, tmp_path):
    for key, value, remedy in (
        ("model_type", "bert", r"of a Hugging Face checkpoint: load\(\) it, and save_bundle\(\)"),
        ("registered_name", "keras_hub>BertTextClassifier", "of a KerasHub preset"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({key: value}))
        for command in (("info", tmp_path), ("evaluate", tmp_path, "--record", "--data", "x.csv")):
            assert re.search(remedy, invoke(*command, code=1).stderr)


@pytest.mark.once
def test_the_accuracy_of_an_entry_is_that_on_most_rows(model, tmp_path):
    directory = shutil.copytree(model, tmp_path / "model")
    results = [("mine", 2, 1.0), ("validation", 9_000, 0.5), ("agnews test", 7_600, 0.9)]
    results.append(("train.csv", 8_000, 0.99))
    description = dataclasses.replace(
        bundle.read(directory),
        results=tuple(
            {"data": data, "rows": rows, "metric": "accuracy", "value": value}
            for data, rows, value in results
        ),
    )
    text_files.write_json(directory / "config.json", description.to_dict())
    result = run_with_registered(tmp_path, "list", "model", "--format", "json")
    (shown,) = json.loads(result.stdout)
    assert (shown["accuracy"], shown["accuracy_on"]) == (0.9, "agnews test")


@pytest.mark.backend
@pytest.mark.once
def test_evaluate_counts_what_classify_answers(model, invoke, tmp_path, monkeypatch):
    import keras_agnews

    texts = [f"{text} {word}" for text in TEXTS for word in WORDS[:9]]
    answers = [answer.label for answer in keras_agnews.load(model).classify(texts)]
    wrong = {label: LABELS[i - 1] for i, label in enumerate(LABELS)}
    # Every third answer is declared wrong.
    truth = [wrong[label] if i % 3 == 0 else label for i, label in enumerate(answers)]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["body", "topic"])
        writer.writerows(zip(texts, truth, strict=True))
    arguments = ("evaluate", model, "--data", path, "--text-column", "body")
    report = tmp_path / "report.html"
    options = ("--label-column", "topic", "--format", "json", "--report", report)
    result = invoke(*arguments, *options)
    assert result.stderr == ""
    values = json.loads(result.stdout)
    assert values["rows"] == 63
    assert values["accuracy"] == pytest.approx(42 / 63)
    assert values["documents_per_second"] > 0
    assert 0 < values["calibration_error"] < 1
    for i, label in enumerate(LABELS):
        for j, other in enumerate(LABELS):
            pairs = list(zip(truth, answers, strict=True)).count((label, other))
            assert values["confusion"][i][j] == pairs
        assert values["per_class"][label]["rows"] == truth.count(label)
    assert values["truncated"] == sum(len(text.split()) > 16 for text in texts)

    page = report.read_text(encoding="utf-8")
    assert f"{path.name}: 63 texts" in page
    assert "66.67\N{NO-BREAK SPACE}%" in page

    shown = invoke(*arguments, "--label-column", "topic").stdout
    assert "66.67%" in shown
    assert f"{values['calibration_error']:.2%}, expected" in shown
    assert all(label in shown for label in LABELS)

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    for _ in range(2):  # the second time in place of the first
        invoke("evaluate", copy, *arguments[2:], "--label-column", "topic", "--record")
    rows = [(row["data"], row["metric"]) for row in bundle.read(copy).results]
    assert sorted(rows) == sorted({*rows})
    figures = {(row["data"], row["metric"]): row for row in bundle.read(copy).results}
    assert figures["ag_news test", "accuracy"]["value"] == 0.918, "other data's figures stay"
    assert figures["rows.csv", "accuracy"]["value"] == round(42 / 63, 4)
    assert figures["rows.csv", "accuracy"]["rows"] == 63
    error = figures["rows.csv", "calibration_error"]["value"]
    assert error == pytest.approx(values["calibration_error"], abs=1e-4)
    assert figures["rows.csv", "documents_per_second"]["backend"] == os.environ["KERAS_BACKEND"]
    np.testing.assert_array_equal(
        keras_agnews.load(copy).predict(texts), keras_agnews.load(model).predict(texts)
    )
    with monkeypatch.context() as patch:  # a run that saves a better epoch there meanwhile
        measure = metrics.calibration_error

        def late(*arguments):
            keras_agnews.load("tiny-transformer").save_bundle(copy)
            return measure(*arguments)

        shutil.copytree(copy, tmp_path / "before")
        patch.setattr(metrics, "calibration_error", late)
        record = ("evaluate", copy, *arguments[2:], "--label-column", "topic", "--record")
        assert "has been trained while it was measured" in invoke(*record, code=1).stderr
        assert bundle.read(copy).results == bundle.read(registry.find("tiny-transformer")).results
        shutil.rmtree(copy)
        (tmp_path / "before").rename(copy)
    # Those of bfloat16 stand beside them, and say so.
    before = bundle.read(copy).results
    options = ("--label-column", "topic", "--record", "--mixed-precision")
    for _ in range(2):
        invoke("evaluate", copy, *arguments[2:], *options)
    after = bundle.read(copy).results
    assert after[: len(before)] == before
    assert {row["precision"] for row in after[len(before) :]} == {"bfloat16"}
    assert len(after) == len(before) + 4

    with path.open("w", newline="", encoding="utf-8") as file:  # a class without rows has no recall
        rows = zip(texts, answers, strict=True)
        rows = [row for row in rows if row[1] == LABELS[0]]
        csv.writer(file).writerows([("text", "label"), *rows])
    one = json.loads(invoke("evaluate", model, "--data", path, "--format", "json").stdout)
    assert one["per_class"][LABELS[1]] == {"precision": None, "recall": None, "f1": None, "rows": 0}
    shown = invoke("evaluate", model, "--data", path).stdout
    assert re.search(f"^{LABELS[1]} +- +- +- +0$", shown, re.MULTILINE)

    path.write_text("text,label\nOil prices,Weather\n", encoding="utf-8")
    errors = invoke("evaluate", model, "--data", path, code=1).stderr
    assert re.fullmatch(r"Error: .*line 2: label 'Weather' is not one of World, .*\n", errors)


@pytest.mark.backend
@pytest.mark.once
def test_a_record_says_test_of_the_test_split_alone(model, invoke, tmp_path):
    """Rows of the training split in a file of their own are no test, whatever their form."""
    rows = "".join(f'"{i % 4 + 1}","{text}","more"\n' for i, text in enumerate(TEXTS))
    for name in ("mine/test.csv", "train.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rows, encoding="utf-8")
    copy, data = shutil.copytree(model, tmp_path / "copy"), {}
    for name in ("mine", "train.csv"):
        shown = invoke("evaluate", copy, "--data", tmp_path / name, "--record").stdout
        data[name] = {row["data"] for row in bundle.read(copy).results}
        assert ("of 7,600 rows" in shown) == (name == "mine")
    assert data["mine"] == {"ag_news test", "mine test"}
    assert data["train.csv"] - data["mine"] == {"train.csv"}


@pytest.mark.backend
@pytest.mark.once
def test_speed_is_that_of_the_texts_which_were_timed(model, invoke, tmp_path, monkeypatch):
    import itertools
    from types import SimpleNamespace

    from keras_agnews import classifier, cli

    clock = itertools.count(0, 2)  # two seconds from one look to the next
    monkeypatch.setattr(classifier, "WINDOW", 4)
    monkeypatch.setattr(cli, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "Oil prices,World\n" * 9, encoding="utf-8")
    values = json.loads(invoke("evaluate", model, "--data", path, "--format", "json").stdout)
    assert (values["rows"], values["documents_per_second"]) == (9, 4 / 2)


@pytest.mark.backend
@pytest.mark.slow
def test_train_on_rows_of_ones_own(model, invoke, tmp_path):
    rng = np.random.default_rng(0)
    path, output = tmp_path / "rows.jsonl", tmp_path / "mine"
    topics = {
        "sport": ["goal", "coach", "striker", "season", "overtime"],
        "money": ["oil", "prices", "bank", "shares", "profit"],
    }
    rows = [
        {"body": " ".join(rng.choice(words, 6)), "topic": topic}
        for topic, words in topics.items()
        for _ in range(150)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = (
        *("train", model, "--data", path, "--text-column", "body", "--label-column", "topic"),
        *("--output", output, "--validation-fraction", "0.2"),
    )
    # In a process of its own, because C++ code has its own way to standard error.
    process = start(*arguments, "--epochs", 8, "--batch-size", 8, "--learning-rate", "0.01")
    lines, errors = (stream.decode() for stream in process.communicate())
    assert process.returncode == 0, errors
    assert errors == "", "the head is new, but will be trained"
    shown = dict(re.split("  +", line, maxsplit=1) for line in lines.splitlines())
    assert shown["model"] == str(output)
    assert float(shown["validation accuracy"].removesuffix("%")) > 90
    assert bundle.read(output).labels == ("money", "sport")
    assert "held out for validation, 0 duplicates" in bundle.read(output).recipe["data"]
    answers = invoke("classify", "--model", output, "oil shares", "coach season").stdout
    assert [line.split()[0] for line in answers.splitlines()] == ["money", "sport"]

    errors = invoke(*arguments, code=1).stderr
    assert re.fullmatch(r"Error: --output .* is not empty: --resume goes on .*\n", errors)


@pytest.mark.backend
@pytest.mark.once
def test_train_takes_rows_to_validate_on(model, invoke, tmp_path):
    rows = [(f"{text} {word}", i % 4) for i, text in enumerate(TEXTS) for word in WORDS[:18]]
    for name, part in (("train", rows[::2]), ("held-out", rows[1::2][::-1])):
        lines = [f"{text.replace(',', ' ')},{LABELS[label]}" for text, label in part]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    output, held_out = tmp_path / "run", tmp_path / "held-out.csv"
    data = ("--data", tmp_path / "train.csv", "--validation", held_out, "--output", output)
    options = ("--recipe", "head", "--max-length", 8, "--mixed-precision", "--epochs", 3)
    shown = invoke("train", model, *data, *options, "--learning-rate", 0.05).stdout
    trained = bundle.read(output)
    recipe = {
        name: trained.recipe[name] for name in ("recipe", "epochs", "mixed_precision", "rows")
    }
    assert recipe == {"recipe": "head", "epochs": 3, "mixed_precision": True, "rows": 63}
    assert trained.max_length == 8
    figures = {row["metric"]: row for row in trained.results}
    assert figures["accuracy"]["rows"] == 63
    measured = json.loads(invoke("evaluate", output, "--data", held_out, "--format", "json").stdout)
    assert measured["accuracy"] == pytest.approx(figures["accuracy"]["value"])
    assert f"{measured['accuracy']:.2%}" in shown
    assert measured["truncated"] > 0


@pytest.mark.backend
@pytest.mark.once  # that a run repeats on each, resumed ones show
def test_the_shipped_recipe_makes_the_model_again(model, invoke, tmp_path):
    from safetensors.numpy import load_file

    def train(start, output, *options, code=0):
        arguments = ("train", start, "--data", tmp_path / "rows.csv", "--output", tmp_path / output)
        return invoke(*arguments, *options, code=code)

    rows = [f"{text} {word},{LABELS[i % 4]}" for i, text in enumerate(TEXTS) for word in WORDS[:6]]
    rows = [row.replace(",", " ", row.count(",") - 1) for row in rows]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    own = ("--epochs", 2, "--batch-size", 8, "--learning-rate", 0.01, "--seed", 3)
    own += ("--weights", "none", "--dtype", "float16", "--validation-fraction", 0.2)
    own += ("--teacher", model, "--teacher-weight", 0.5, "--crops", 1, "--word-dropout", 0.1)
    train(model, "first", *own)
    first = tmp_path / "first"
    record = bundle.read(first).recipe
    assert (record["start"], record["dtype"]) == ("none", "float16")
    weights = bundle.read(model).weights.sha256
    assert record["teacher"] == [{"name": "scratch", "recipe": {"weights_sha256": weights}}]
    again = ("--recipe", "shipped", "--teacher", model)
    train(first, "second", *again)
    one, other = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    assert bundle.read(tmp_path / "second").recipe | {"minutes": record["minutes"]} == record
    assert bundle.read(tmp_path / "second").temperature == bundle.read(first).temperature

    train(first, "other", *again, "--seed", 4)
    other = bundle.read(tmp_path / "other").recipe
    assert other == record | {"seed": 4, "minutes": other["minutes"]}
    drawn = load_file(tmp_path / "other" / "model.safetensors")
    assert any((value != drawn[name]).any() for name, value in one.items())
    for option, value in (("--epochs", 3), ("--dtype", "float32"), ("--weights", "pretrained")):
        errors = train(first, "third", *again, option, value, code=1).stderr
        assert re.fullmatch(f"Error: {option} {value} contradicts --recipe shipped: .*\n", errors)
    errors = train(first, "third", "--recipe", "shipped", "--teacher", "tiny-transformer", code=1)
    assert "--teacher tiny-transformer contradicts" in errors.stderr
    errors = train(model, "third", "--recipe", "shipped", code=1).stderr
    assert "scratch was not trained by this package" in errors
    assert not (tmp_path / "third").exists()


def test_a_teacher_that_is_nowhere_else_is_made_again_too(invoke, tmp_path):
    """A student of a run on disk, of one of the zoo, and of a student: each from rows alone."""
    from safetensors.numpy import load_file

    def train(start, output, *options, code=0):
        arguments = ("train", start, "--data", tmp_path / "rows.csv", "--output", tmp_path / output)
        return invoke(*arguments, *options, code=code)

    from keras_agnews import data
    from keras_agnews.loading import open_checkpoint

    rows = [
        f"{text} {word},{data.LABELS[i % 4]}" for i, text in enumerate(TEXTS) for word in WORDS[:3]
    ]
    rows = [row.replace(",", " ", row.count(",") - 1) for row in rows]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    own = ("--weights", "none", "--epochs", 1, "--batch-size", 8, "--learning-rate", 0.01)
    train("tiny-transformer", "a", *own, "--seed", 5)
    train("tiny-transformer", "b", *own, "--teacher", tmp_path / "a", "--crops", 1)
    both = f"tiny-transformer,{tmp_path / 'b'}"
    train("tiny-transformer", "c", *own, "--teacher", both, "--teacher-weight", 0.5)
    recorded = bundle.read(tmp_path / "c").recipe
    of_zoo, nested = recorded["teacher"]
    # How the zoo's was made, too: another day it may have another one of the name.
    zoo = open_checkpoint("tiny-transformer").description
    assert of_zoo == {"name": "tiny-transformer", "recipe": zoo.recipe}
    assert nested["recipe"]["teacher"][0]["recipe"]["seed"] == 5
    assert str(tmp_path) not in json.dumps(recorded)
    shown = invoke("info", tmp_path / "c").stdout
    taught = "tiny-transformer (recipe full, seed 0), tiny-transformer (recipe full, seed 0)"
    assert re.search(rf"^recipe\.teacher +{re.escape(taught)}$", shown, re.MULTILINE)

    train(tmp_path / "c", "again", "--recipe", "shipped")
    again = tmp_path / "again"
    for run, copy in (("a", "teacher-2/teacher-1"), ("b", "teacher-2"), ("c", ".")):
        one = load_file(tmp_path / run / "model.safetensors")
        other = load_file(again / copy / "model.safetensors")
        assert all(np.array_equal(value, other[name]) for name, value in one.items()), run
    assert not (again / "teacher-1").exists(), "the zoo has it"
    # What a run has finished is not done again.
    before = (again / "teacher-2" / "model.safetensors").read_bytes()
    (again / "checkpoint.safetensors").unlink()
    train(tmp_path / "c", "again", "--recipe", "shipped", "--resume")
    assert (again / "teacher-2" / "model.safetensors").read_bytes() == before
    errors = train(tmp_path / "c", "x,y", "--recipe", "shipped", code=1).stderr
    assert "x,y: a comma parts the names of teachers" in errors
    errors = train("tiny-transformer", "d", "--recipe", "shipped", "--teacher", both, code=1)
    assert "contradicts --recipe shipped" in errors.stderr

    config = json.loads((tmp_path / "c" / "config.json").read_text())
    for bad, message in (
        (5, "recipe.teacher has 5 for a name"),
        ({"name": "tiny-transformer"}, "no name or no recipe"),
        (
            {"name": "nowhere", "recipe": recorded},
            "recorded teacher nowhere cannot be .*--teacher PATH",
        ),
        ({"name": "tiny-transformer", "recipe": 3}, "the recipe of .* must be an object"),
        ({"name": "tiny-transformer", "recipe": {}}, "was not trained by this package.*PATH"),
        ("nowhere", "teacher nowhere cannot be .*: it is not in the zoo; --teacher PATH"),
    ):
        config["recipe"]["teacher"] = [bad]
        (tmp_path / "c" / "config.json").write_text(json.dumps(config))
        errors = train(tmp_path / "c", "e", "--recipe", "shipped", code=1).stderr
        assert re.search(message, errors)
    assert not (tmp_path / "e").exists()


@pytest.mark.backend
@pytest.mark.once
def test_a_run_that_went_on_from_a_model_is_made_again_with_it(invoke, tmp_path):
    """The model that it started from taught it too: trained once, or found where one says."""
    from safetensors.numpy import load_file

    import keras_agnews
    from keras_agnews import runs
    from keras_agnews.recipes import make_recipe

    def train(start, output, *options, code=0):
        arguments = ("train", start, "--data", tmp_path / "rows.csv", "--output", tmp_path / output)
        return invoke(*arguments, *options, code=code)

    def assert_same(one, other):
        one, other = (load_file(path / "model.safetensors") for path in (one, other))
        assert all(np.array_equal(value, other[name]) for name, value in one.items())

    from keras_agnews import data

    rows = [f"{text} {word}" for text in TEXTS for word in WORDS[:3]]
    rows = [f"{text.replace(',', ' ')},{data.LABELS[i % 4]}" for i, text in enumerate(rows)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    own = ("--epochs", 1, "--batch-size", 8, "--validation-fraction", 0.2)
    a, b = tmp_path / "a", tmp_path / "b"
    anew = (*own, "--weights", "none", "--learning-rate", 0.01)
    train("tiny-transformer", "a", *anew, "--max-length", 8)
    taught = (*own, "--teacher", a, "--learning-rate", 1e-3)
    train("tiny-transformer", "b", *taught, "--weights", a)
    record = bundle.read(b).recipe
    of_a = {"name": "tiny-transformer", "recipe": bundle.read(a).recipe}
    assert (record["start"], record["teacher"]) == (of_a, [of_a])
    assert str(tmp_path) not in json.dumps(record)
    shown = invoke("info", b).stdout
    assert re.search(r"^recipe\.start +tiny-transformer \(recipe full, seed 0\)$", shown, re.M)
    # Who begins anew with such a model wants the rate to begin with.
    for weights, rate in ((None, 0.01), ("best", 1e-3)):
        assert make_recipe(keras_agnews.load(b, weights=weights)).learning_rate == rate

    errors = train("tiny-transformer", "b", *taught, "--resume", code=1).stderr
    assert re.search("is of a run with start 'tiny-transformer [0-9a-f]{12}', not 'none'", errors)

    said = train(b, "again", "--recipe", "shipped").stderr
    assert said.count("to be trained first: tiny-transformer") == 1
    assert "start, 1 of 1 to be trained first" in said
    assert not (tmp_path / "again" / "teacher-1").exists()
    assert_same(a, tmp_path / "again" / "start")
    assert_same(b, tmp_path / "again")
    said = train(b, "there", "--recipe", "shipped", "--weights", a, "--teacher", a).stderr
    assert "to be trained first" not in said
    assert_same(b, tmp_path / "there")
    # One's own model as it is, and one of the zoo by its name.
    train(b, "c", *own)
    assert bundle.read(tmp_path / "c").recipe["start"]["recipe"] == record
    train("tiny-transformer", "d", *own, "--weights", "best")
    train(tmp_path / "d", "d2", "--recipe", "shipped")
    start = bundle.read(tmp_path / "d2").recipe["start"]
    assert start["recipe"] == bundle.read(registry.find("tiny-transformer")).recipe
    assert not (tmp_path / "d2" / "start").exists()
    assert_same(tmp_path / "d", tmp_path / "d2")

    # Neither what only has the name, nor on other rows.
    train("tiny-transformer", "a2", *anew)
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows, rows[0]]), encoding="utf-8")
    train("tiny-transformer", "f", *own, "--weights", a)
    errors = train(tmp_path / "f", "e", "--recipe", "shipped", code=1).stderr
    assert re.search("weights tiny.* cannot be trained again: its rows were others .*PATH", errors)
    for place in ("none", "small-bert-L4", "best", tmp_path / "a2"):
        errors = train(b, "e", "--recipe", "shipped", "--weights", place, code=1).stderr
        assert f"--weights {place} contradicts" in errors
    config = json.loads((b / "config.json").read_text())
    for bad, message in (
        (None, "does not record what its training started from"),
        ("another model", "does not record what its training started from"),
        ("hf://somebody/topics", None),
        ({"name": "nowhere", "recipe": record}, "weights nowhere cannot be .*--weights PATH"),
        ({"recipe": record}, "recipe.start has no name"),
        (5, "recipe.start has 5 for a name"),
    ):
        config["recipe"]["start"] = bad
        (b / "config.json").write_text(json.dumps(config))
        if message is None:
            plan = runs.recorded_plan(bundle.read(b), {"teacher": str(a)})
            assert plan.start == bad
            continue
        assert re.search(message, train(b, "e", "--recipe", "shipped", code=1).stderr)
    assert not (tmp_path / "e").exists()


def test_train_names_what_is_wrong_before_it_starts(model, invoke, tmp_path):
    (tmp_path / "file").write_text("")
    errors = invoke("train", model, "--output", tmp_path / "file", code=1).stderr
    assert "is a file" in errors
    errors = invoke(
        "train", model, "--data", tmp_path / "none.csv", "--output", tmp_path / "new", code=1
    ).stderr
    assert "none.csv" in errors
    assert not (tmp_path / "new").exists()


# Explaining.


@pytest.mark.backend
def test_explain_writes_a_page(model, invoke, tmp_path):
    import keras_agnews

    page = tmp_path / "page.html"
    text = "Oil <script>prices</script> and bank shares"
    clf = keras_agnews.load(model)
    answer = clf.classify(text)
    other = next(label for label in LABELS if label != answer.label)
    result = invoke("explain", model, text, "-o", page, "--label", other)
    assert dict(re.split("  +", line) for line in result.stdout.splitlines()) == {
        "label": answer.label,
        "score": f"{answer.score:.3f}",
        "page": str(page),
    }
    expected = keras_agnews.attention(clf, text, label=other)
    written = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'id="data">(.*?)</script>', written)
    assert json.loads(data)["tokens"] == list(expected.tokens)
    assert json.loads(data)["attribution"] == pytest.approx(expected.attribution, abs=1e-3)
    assert f"What speaks for {other}" in written
    assert "no directory" in invoke("explain", model, "", "-o", tmp_path / "a/b", code=1).stderr


@pytest.mark.backend
@pytest.mark.once
def test_a_run_starts_from_ones_own_model_and_its_rows_do_not_depend_on_the_seed(
    model, tmp_path, monkeypatch
):
    from keras_agnews import data, runs, training
    from keras_agnews.loading import open_checkpoint

    seen = []

    def finetune(clf, *rows, **options):
        seen.append((clf, rows, options))
        return {}

    monkeypatch.setattr(training, "finetune", finetune)
    story = "Oil rises to {} dollars a barrel as storms close in on the coast of {}".format
    texts = [story(i, word) for i, word in enumerate(WORDS)]
    texts += [f"{word} {i} is {i * i}" for i, word in enumerate(WORDS)]
    labels = [0] * len(WORDS) + [1 + i % 3 for i in range(len(WORDS))]
    rows = data.Dataset(
        [*texts, "Grain is dear"],
        np.array([*labels, 0], np.int32),
        tuple(sorted(LABELS)),
        "",
        "rows.csv",
    )
    start = runs.default_start(str(model), open_checkpoint(model).description)
    for seed in (1, 2):
        plan = runs.Plan(recipe={"seed": seed}, start=start, validation_fraction=0.2)
        runs.run(str(model), rows, tmp_path / "out", plan)
    (clf, (train, held), options), (_, (other_train, other_held), _) = seen
    assert clf.labels == LABELS, "its own order"
    expected = keras_agnews.load(model).predict(list(TEXTS))
    np.testing.assert_array_equal(clf.predict(list(TEXTS)), expected)
    weights = {"weights_sha256": bundle.read(model).weights.sha256}
    assert options["record"]["start"] == {"name": "scratch", "recipe": weights}
    assert (held.texts, train.texts) == (other_held.texts, other_train.texts)
    assert "near-duplicates of them left out" in train.note
    # Rows of one's own are called by their file; AG News is AG News wherever it lies.
    assert options["record"]["data"].startswith("rows.csv, ")
    known = dataclasses.replace(rows, source="copies/of it", split="train", note="all")
    runs.run(str(model), known, tmp_path / "out", plan)
    assert seen.pop()[2]["record"]["data"].startswith("agnews, all; ")
    # Where a class is gone from the rows, it is said that the model will not know it.
    three = [i for i, label in enumerate(labels) if label != 2]
    fewer = dataclasses.replace(
        rows,
        texts=[texts[i] for i in three],
        labels=np.array([labels[i] - (labels[i] == 3) for i in three], np.int32),
        label_names=tuple(name for name in sorted(LABELS) if name != sorted(LABELS)[2]),
    )
    with pytest.warns(UserWarning, match=f"no row has the label {sorted(LABELS)[2]}: the model"):
        runs.run(str(model), fewer, tmp_path / "out", plan)
    starts = {"minilm-L6": "pretrained", "tiny-transformer": "none"}
    for name, wanted in starts.items():
        assert runs.default_start(name, open_checkpoint(name).description) == wanted


@pytest.mark.once
def test_every_option_of_train_reaches_the_run(model, invoke, tmp_path, monkeypatch):
    from keras_agnews import runs

    seen = {}

    def run(name, rows, output, plan, **options):
        seen.update(plan.recipe | options)
        raise InputError("enough")

    monkeypatch.setattr(runs, "run", run)
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    options = {
        "--openings": 2,
        "--ema-momentum": 0.5,
        "--pretrain-epochs": 3,
        "--pretrain-learning-rate": 0.25,
        "--delta-rank": 4,
        "--steps-per-epoch": 5,
        "--validation-steps": 6,
        "--warmup": 0.125,
        "--base": "there",
        "--crops": 7,
        "--replacements": 8,
        "--teacher-weight": 0.75,
        "--word-dropout": 0.0625,
        "--batch-size": 9,
    }
    flat = [part for option in options.items() for part in option] + ["--teacher-embeddings"]
    places = ("--data", tmp_path / "rows.csv", "--output", tmp_path / "m")
    invoke("train", model, *places, *flat, code=1)
    given = {name[2:].replace("-", "_"): value for name, value in options.items()}
    assert seen.items() >= given.items()
    assert seen["teacher_embeddings"] is True
    assert seen["progress"] is True


@pytest.mark.once
@pytest.mark.parametrize(
    ("command", "options"),
    [("pull", ("revision", "local_dir")), ("verify", ("revision", "base"))],
)
def test_options_of_pull_and_verify_reach_them(command, options, invoke, monkeypatch):
    from keras_agnews import hub

    seen = {}

    def called(source, **given):
        seen.update(given, source=source)
        return ()

    monkeypatch.setattr(hub, command, called)
    given = {name: f"the {name}" for name in options}
    flags = [part for name in options for part in (f"--{name.replace('_', '-')}", given[name])]
    invoke(command, "hf://user/name", *flags)
    assert seen == {"source": "hf://user/name"} | given


@pytest.mark.backend
@pytest.mark.once
def test_a_directory_to_validate_on_is_its_test_split(invoke, tmp_path, monkeypatch):
    from keras_agnews import runs

    seen = []

    def run(name, dataset, output, plan, held_out, **options):
        seen.append(held_out)
        raise InputError("enough")

    monkeypatch.setattr(runs, "run", run)
    rows = {"train": '"1","Talks","met"\n"2","Cup","won"\n', "test": '"3","Oil","up"\n'}
    for split, text in rows.items():
        (tmp_path / f"{split}.csv").write_text(text)
    places = ("--data", tmp_path, "--validation", tmp_path, "--output", tmp_path / "m")
    invoke("train", "tiny-transformer", *places, code=1)
    assert [rows.texts for rows in seen] == [["Oil up"]]


@pytest.mark.once
def test_sizes_have_three_digits_and_words_their_joiners():
    from keras_agnews.console import human_bytes, printable

    sizes = {0: "0 B", 999: "999 B", 1000: "1 kB", 999_499: "999 kB", 999_500: "1 MB"}
    sizes |= {1_480_000: "1.48 MB", 999_999_999: "1 GB", 5_200_000_000_000: "5.2e+03 GB"}
    assert {count: human_bytes(count) for count in sizes} == sizes
    for text in (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469",
        "10\u00a0%",
    ):
        assert printable(text) == text
    assert printable("a\x1b[2J\nb\u202ec\r") == "a [2J b c "


@pytest.mark.once
@pytest.mark.parametrize("command", ["classify", "explain", "evaluate"])
def test_options_of_loading_reach_load(command, model, invoke, tmp_path, monkeypatch):
    seen = {}

    def load(name, **options):
        seen.update(options)
        raise InputError("enough")

    monkeypatch.setattr(keras_agnews, "load", load)
    backend = os.environ["KERAS_BACKEND"]
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    words = {
        "classify": ["text", "--model", model],
        "explain": [model, "text", "-o", tmp_path / "x.html"],
        "evaluate": [model],
    }
    fast = [] if command == "explain" else ["--mixed-precision"]
    invoke(command, *words[command], "--base", "there", "--backend", backend, *fast, code=1)
    assert seen == {"base": "there"} | ({"mixed_precision": True} if fast else {})
    assert os.environ["KERAS_BACKEND"] == backend


@pytest.mark.backend
@pytest.mark.once
def test_top_labels_as_text(model, invoke):
    line = invoke("classify", TEXTS[0], "--model", model, "--top", 2).stdout
    assert sum(label in line for label in LABELS) == 2


@pytest.mark.once
def test_the_list_tells_where_weights_are(invoke):
    rows = {line.split()[0]: line for line in invoke("list").stdout.splitlines()}
    assert re.search(r"MB +shipped$", rows["tiny-transformer"])
    assert re.search(r"on the Hub +hf://google-bert/bert-base-uncased$", rows["bert-base"])
    assert re.search(r"MB +a difference to hf://", rows["minilm-L6"])


@pytest.mark.once
def test_a_finished_run_whose_model_was_trained_on_since_has_no_figure(
    invoke, tmp_path, monkeypatch
):
    from keras_agnews import runs

    finished = {"best_epoch": 1, "history": [{}]}
    monkeypatch.setattr(runs, "run", lambda *arguments, **options: finished)
    output = write_bundle(tmp_path / "out", results=())
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    places = ("--data", tmp_path / "rows.csv", "--output", output, "--resume")
    assert "not recorded" in invoke("train", "tiny-transformer", *places).stdout


@pytest.mark.once
def test_a_record_that_cannot_be_written_is_told_before_the_work(model, invoke, monkeypatch):
    from keras_agnews import files

    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    told = invoke("evaluate", model, "--record", code=1).stderr
    assert f"--record: {model} cannot be written to" in told


def test_a_record_is_none_of_the_hub_clients_files(model, invoke, tmp_path):
    cached = tmp_path / "models--user--topics" / "snapshots" / ("a" * 40)
    shutil.copytree(model, cached)
    told = invoke("evaluate", cached, "--record", "--data", tmp_path / "none.csv", code=1).stderr
    assert "in the Hub client's cache: pull --local-dir makes a copy" in " ".join(told.split())
