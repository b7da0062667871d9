"""The benchmark: what it measures, what becomes of a process that fails, and what README says."""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_bert as oracle
from click.testing import CliRunner
from conftest import SENTENCES, needs

import keras_agnews
from benchmarks import accuracy, cells, peers, prepare, processes, report, rows, run, texts
from benchmarks.cells import OURS, Cell
from benchmarks.rows import Row
from keras_agnews import registry
from keras_agnews.errors import DataError, InputError

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [text for text, _ in SENTENCES]
LABELS = ("World", "Sports", "Business", "Sci/Tech")


def needs_of(name: str, package: str) -> Any:
    return pytest.param(name, marks=needs(package))


def write_agnews(directory: Path, copies: int = 1) -> Path:
    """Both splits, as AG News has them, of our own sentences."""
    directory.mkdir()
    for split in ("train", "test"):
        with (directory / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            lines = [(1 + LABELS.index(label), *text.split(" ", 1)) for text, label in SENTENCES]
            csv.writer(stream).writerows(lines * copies)
    return directory


# What there is to measure.

# By BERT's pooled output, as the classes of KerasHub and of TF-Hub do.
POOLED = {"small-bert-L4", "bert-base", "bert-large"}


def test_every_entry_has_every_backend_and_peer() -> None:
    found = cells.all_cells(registry.list_models())
    assert len(found) == len(set(found)) == len({cell.name for cell in found})
    for entry in registry.list_models():
        mine = [cell for cell in found if cell.entry == entry]
        for work in cells.WORKS:
            backends = {c.backend for c in mine if c.work == work and c.competitor == OURS}
            assert backends == set(cells.BACKENDS)
        description = cells.describe(entry)
        kinds = {description.builder} | ({"pooled bert"} if entry in POOLED else set())
        assert {cell.competitor for cell in mine} == {OURS} | {
            name for name, peer in peers.PEERS.items() if kinds.intersection(peer.kinds)
        }
        assert ({"keras-hub-128", "tfhub"} <= {cell.competitor for cell in mine}) == (
            entry in POOLED
        )
        shapes = {(cell.batch, cell.length) for cell in mine if cell.work == "model"}
        batches = (1, 32) if "base" in entry or "large" in entry else (1, 32, 256)
        lengths = {128, description.max_length}
        assert shapes == {(batch, length) for batch in batches for length in lengths}
    assert {c.competitor for c in found if c.entry == cells.CLASSIC} == {"tfidf-svm", "fasttext"}


def test_what_is_asked_for_is_all_there_is() -> None:
    found = cells.all_cells(
        ["bert-base"],
        backends=["jax"],
        peers=["onnx", "onnx-int8", "transformers"],
        works=["strings", "model"],
        precisions=["bfloat16"],
        gpu=True,
    )
    assert found == [
        Cell("strings", "bert-base", OURS, "jax", precision="bfloat16"),
        Cell("strings", "bert-base", "transformers", "torch", precision="bfloat16"),
        *(Cell("model", "bert-base", OURS, "jax", n, 128, "bfloat16") for n in (1, 32, 256)),
    ]


def test_bfloat16_is_for_gpus_and_for_pytorch() -> None:
    options = {"precisions": ["float32", "bfloat16"], "works": ["strings"]}
    found = cells.all_cells(["minilm-L6"], **options)
    reduced = {(cell.competitor, cell.backend) for cell in found if cell.precision == "bfloat16"}
    names = [name for name, peer in peers.PEERS.items() if peer.form == "hugging_face"]
    names.remove("transformers-training")
    assert reduced == {(OURS, "torch"), *((name, "torch") for name in names)}
    everywhere = cells.all_cells(["minilm-L6"], gpu=True, **options)
    assert {c.backend for c in everywhere if c.precision == "bfloat16"} == {*cells.BACKENDS}


def test_competitors_take_turns_and_shapes_do_not() -> None:
    found = cells.all_cells(["tiny-transformer"], peers=["padded"])
    sizes = {group[0].work: len(group) for group in cells.groups(found)}
    assert sizes == {"strings": 6, "model": 1, "start": 3, "training": 3}
    learners = cells.all_cells(["bert-base", "bert-large"], backends=["torch"], works=["training"])
    alone = [(group[0].entry, len(group)) for group in cells.groups(learners)]
    assert alone == [("bert-base", 2), ("bert-large", 1), ("bert-large", 1)], "for its memory"


def test_what_pads_to_one_length_and_large_entries_get_fewer_texts() -> None:
    def count(entry: str, competitor: str = OURS, **options: bool) -> int:
        settings = {"quick": False, "gpu": False} | options
        return cells.text_count(Cell("strings", entry, competitor, "jax"), **settings)

    assert count("tiny-transformer") == count("small-bert-L4") == count("bert-large", gpu=True)
    assert 7_600 > count("minilm-L6") > count("bert-base") >= count("bert-large") > 0
    assert 7_600 > count("small-bert-L4", "keras-hub-128") > count("small-bert-L4", "keras-hub-512")
    for peer in ("transformers", "transformers-pipeline", "onnx"):
        assert count("small-bert-L4", peer) == 7_600, "how much is padding hangs on the texts"
    assert count("bert-large", "keras-hub-512") == 32
    assert count("small-bert-L4", quick=True) == cells.QUICK_TEXTS


def test_flops_are_those_of_the_matrix_products() -> None:
    """Multiplied out by hand for BERT-base, of which 22.4 GFLOP at 128 tokens are published."""
    config = cells.describe("bert-base").config
    block = 128 * 2 * 12 * 768**2 + 4 * 128**2 * 768
    found = cells.flops(dataclasses.replace(config, pooling="mean", pooler=False), 128)
    assert found == 12 * block
    assert found == pytest.approx(22.4e9, rel=0.01)
    # Of the first token alone: keys and values of all, the rest of one.
    last = 128 * 2 * 2 * 768**2 + 2 * 10 * 768**2 + 4 * 128 * 768
    assert cells.flops(config, 128) == 11 * block + last + 2 * 768**2
    assert cells.flops(config, 128, 3) == 3 * cells.flops(config, 128)


def test_flops_of_another_architecture_are_its_matrices_once_a_token() -> None:
    class Config:
        def variables(self, classes: int) -> dict[str, tuple[int, ...]]:
            return {"embedding/embeddings": (99, 8), "a/kernel": (8, 6), "a/bias": (6,)}

    assert cells.flops(Config(), 10, 2) == 2 * 2 * 10 * 8 * 6


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_is_a_file_with_one_function(name: str) -> None:
    """Read, not imported: what it needs may be missing."""
    peer = peers.PEERS[name]
    path = ROOT / "benchmarks" / "peers" / f"{peer.module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    load = functions["load"]
    assert ast.unparse(load.returns) == "Callable[[Sequence[str]], Answer]"
    model, *options = load.args.args
    assert (model.arg, ast.unparse(model.annotation)) == ("model", "Model")
    assert {option.arg for option in options} >= set(peer.options)
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    roots = {
        name.partition(".")[0]
        for node in at_once
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert roots <= sys.stdlib_module_names | {"benchmarks", "keras_agnews", "numpy"}


def test_every_file_of_peers_is_listed() -> None:
    files = {path.stem for path in (ROOT / "benchmarks" / "peers").glob("*.py")}
    assert files - {"__init__"} == {peer.module for peer in peers.PEERS.values()}


# Texts.


def test_a_broken_file_is_not_replaced_by_generated_texts(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    with pytest.raises(DataError):
        texts.read_texts(str(file), ["word"])
    file.write_text("")
    with pytest.raises((DataError, InputError)):
        texts.read_texts(str(file), ["word"])


def test_texts_are_generated_where_there_is_no_ag_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_agnews import data
    from keras_agnews.errors import DownloadError

    def unreachable(*_: Any) -> Any:
        raise DownloadError("the Hub cannot be reached")

    monkeypatch.setattr(data, "load_agnews", unreachable)
    vocabulary = ["[PAD]", "[UNK]", "oil", "prices", "##es", "4", "rise"]
    found = texts.read_texts(None, vocabulary)
    assert (len(found.texts), found.labels) == (7_600, None)
    assert set(" ".join(found.texts).split()) == {"oil", "prices", "rise"}
    assert found.origin == "generated, as long as those of AG News"


def test_a_sample_is_padded_as_all_texts_are(agnews: Path) -> None:
    every = texts.read_texts(str(agnews), [])

    def positions(found: Sequence[str], by_length: bool) -> float:
        lengths = np.minimum([len(text.split()) for text in found], 90)  # models cut them
        lengths = np.sort(lengths) if by_length else lengths
        batches = np.split(lengths, range(32, len(lengths), 32))
        return sum(batch.max() * len(batch) for batch in batches) / len(lengths)

    for count, tolerance in ((256, 0.2), (1_024, 0.05)):
        sample = every.sample(count).texts
        assert len(sample) == count
        for by_length in (False, True):
            wanted = positions(every.texts, by_length)
            assert positions(sample, by_length) == pytest.approx(wanted, rel=tolerance)
    assert set(every.drawn(256)) < set(every.drawn(1_024))


def test_training_batches_of_a_sample_are_those_of_all_texts() -> None:
    lengths = np.random.default_rng(1).permutation(np.arange(100) // 3)
    every = texts.Texts([str(n) for n in lengths], list(range(100)), "made")
    found = every.batches(lengths, 8, 3)
    whole = np.sort(lengths)[:96].reshape(12, 8)
    batches = np.array([int(text) for text in found.texts]).reshape(3, 8)
    np.testing.assert_array_equal(batches, whole[[2, 6, 10]])
    assert [every.texts[i] for i in found.labels or ()] == found.texts
    assert every.batches(lengths, 8, 12) is every


def test_generated_texts_are_as_long_as_those_of_ag_news(agnews: Path) -> None:
    theirs = texts.read_texts(str(agnews), [])
    assert theirs.origin == "AG News test, complete"
    ours = texts.generate_texts(["one", "two", "three"], len(theirs.texts))
    lengths = [np.array([len(text.split()) for text in part]) for part in (theirs.texts, ours)]
    means, spreads = zip(*((part.mean(), part.std()) for part in lengths), strict=True)
    assert means[1] == pytest.approx(means[0], rel=0.02)
    assert spreads[1] == pytest.approx(spreads[0], rel=0.05)


def test_a_sample_is_the_same_each_time_and_part_of_a_larger_one(tmp_path: Path) -> None:
    every = texts.Texts([f"text {i}" for i in range(50)], list(range(50)), "made")
    every.write(tmp_path)
    few, more = texts.Texts.read(tmp_path).sample(8), every.sample(20)
    assert few == every.sample(8)
    assert set(few.texts) < set(more.texts) < set(every.texts)
    assert few.texts == [f"text {i}" for i in few.labels or ()]
    assert every.sample(50) is every


# Processes.

SPEAKS = """
import json, sys, time
job = json.loads(sys.stdin.readline())
backend = job["cell"]["backend"]
exec(CODE.get(backend, ""))
print('{"ready": true}', flush=True)
count = 0
for line in sys.stdin:
    if line == "end\\n":
        facts = {"peak_mb": 7, "positions": 400, "device": "CPU, 2 x made up"}
        print(json.dumps(facts), flush=True)
        break
    count += 1
    print(json.dumps({"seconds": float(count), "count": 8, "import_seconds": 0.5}), flush=True)
"""


def runner_of(tmp_path: Path, code: dict[str, str], **options: Any) -> run.Runner:
    """A runner whose processes say what they are told, for `tiny-transformer` on 8 texts."""
    program = SPEAKS.replace("CODE", repr(code))
    command = (sys.executable, "-S", "-c", program)
    runner = run.Runner(tmp_path / "results", tmp_path, worker=command, settle=0, **options)
    entry = run.Entry(tmp_path / "tiny-transformer", weights="trained")
    (entry.directory / "bundle").parent.mkdir(parents=True)
    os.symlink(registry.zoo_directory() / "tiny-transformer", entry.directory / "bundle")
    texts.Texts(TEXTS, [LABELS.index(label) for _, label in SENTENCES], "made").write(
        entry.directory
    )
    runner.entries["tiny-transformer"] = entry
    return runner


def start_cells(*backends: str) -> list[Cell]:
    return [Cell("start", "tiny-transformer", OURS, backend) for backend in backends]


# Ready, and through its first turn, whose limit is the longer one.
SLEEPS = """
print('{"ready": true}', flush=True)
sys.stdin.readline()
print('{"seconds": 1.0, "count": 8}', flush=True)
time.sleep(60)
"""
FAILURES = {
    "raises": (
        'print(\'{"status": "failed", "note": "ValueError: no"}\', flush=True); sys.exit(1)',
        "failed",
        "ValueError: no",
    ),
    "lacks": (
        'print(\'{"status": "not installed", "note": "no x"}\', flush=True); sys.exit(1)',
        "not installed",
        "no x",
    ),
    "exits": ("sys.exit(3)", "failed", "ended with exit code 3"),
    "killed": ("import os; os.kill(os.getpid(), 9)", "out of memory", "exit code -9"),
    "sleeps": (SLEEPS, "timeout", "no answer within 1 s"),
    "chatters": ('print("hello", flush=True)', "failed", "answered 'hello"),
}


def test_what_fails_is_a_row_that_says_so(tmp_path: Path) -> None:
    code = {name: source for name, (source, *_) in FAILURES.items()}
    runner = runner_of(tmp_path, code, limits=(60.0, 60.0, 1.0))
    found = runner.run(start_cells("works", *FAILURES))
    assert [row.backend for row in found] == ["works", *FAILURES]
    good, *bad = found
    assert (good.status, good.turns, good.start_s, good.peak_mb) == ("ok", 2, 1.5, 7)
    assert good.start_beyond_import_s == 1.0
    for row in bad:
        _, status, note = FAILURES[row.backend]
        assert row.status == status
        assert note in row.note
        assert row.start_s is None


def test_a_group_of_which_ours_fail_has_its_rows(tmp_path: Path) -> None:
    """Answers are then compared with nothing, not with those of an earlier run that lie there."""
    runner = runner_of(tmp_path, {"jax": "sys.exit(3)"})
    ours = Cell("strings", "tiny-transformer", OURS, "jax")
    other = dataclasses.replace(ours, competitor="onnx", backend="onnxruntime")
    scores = np.eye(4)[[LABELS.index(label) for _, label in SENTENCES]]
    for cell in (ours, other):
        np.save(tmp_path / "tiny-transformer" / f"{cell.name}.npy", scores)
    failed, good = runner.run([ours, other])
    assert (failed.status, good.status) == ("failed", "ok")
    assert (good.accuracy, good.agreement, good.difference) == (1.0, None, None)


def test_what_a_process_has_started_ends_with_it(tmp_path: Path) -> None:
    child_of = "import subprocess, sys, json; sys.stdin.readline(); " + (
        "found = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']); "
        "print(json.dumps({'pid': found.pid}), flush=True); found.wait()"
    )
    child = processes.Child((sys.executable, "-S", "-c", child_of), {}, tmp_path / "log")
    pid = child.ask("", 60)["pid"]
    os.kill(pid, 0)
    child.close()
    for _ in range(200):  # whoever adopts it has to take note of its end
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} goes on")


def test_a_process_that_dies_in_its_turn_leaves_the_others(tmp_path: Path) -> None:
    dies = "print('{\"ready\": true}', flush=True); sys.stdin.readline(); sys.exit(5)"
    found = runner_of(tmp_path, {"dies": dies}).run(start_cells("dies", "works"))
    assert [row.status for row in found] == ["failed", "ok"]
    assert "exit code 5" in found[0].note


@pytest.mark.parametrize(("work", "beside"), [("strings", True), ("start", False)])
def test_of_many_processors_processes_get_ready_beside_each_other(
    work: str, beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what is timed of getting ready; the turns are one after the other anyhow."""
    monkeypatch.setattr(run, "cpus", lambda: 16)
    meets = f"""
import os
os.mkdir(os.path.join({str(tmp_path)!r}, "here_" + backend))
end = time.time() + {20 if beside else 0.5}
while not os.path.isdir(os.path.join({str(tmp_path)!r}, "here_torch")):
    if time.time() > end:
        sys.exit(9)
    time.sleep(0.01)
"""
    runner = runner_of(tmp_path, {"jax": meets, "torch": meets, "broken": "sys.exit(3)"})
    wanted = [
        Cell(work, "tiny-transformer", OURS, backend) for backend in ("jax", "broken", "torch")
    ]
    scores = np.eye(4)[[LABELS.index(label) for _, label in SENTENCES]]
    for cell in wanted:
        np.save(tmp_path / "tiny-transformer" / f"{cell.name}.npy", scores)
    found = runner.run(wanted)
    assert [row.backend for row in found] == ["jax", "broken", "torch"]
    assert [row.status for row in found] == ["ok" if beside else "failed", "failed", "ok"]


def test_an_entry_that_cannot_be_had_fails_alone(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, {})
    runner.entries["minilm-L6"] = run.Entry(
        tmp_path, failure=processes.ChildError("failed", "NotFoundError: nowhere")
    )
    (row,) = runner.run([Cell("start", "minilm-L6", OURS, "jax")])
    assert (row.status, row.note) == ("failed", "NotFoundError: nowhere")


def test_the_figures_of_a_row_add_up(tmp_path: Path) -> None:
    runner = runner_of(tmp_path, {})
    cell = Cell("strings", "tiny-transformer", OURS, "jax")
    other = dataclasses.replace(cell, competitor="onnx", backend="onnxruntime")
    scores = np.eye(4)[[LABELS.index(label) for _, label in SENTENCES]]
    np.save(tmp_path / "tiny-transformer" / f"{cell.name}.npy", scores)
    scores[0] = [0.25, 0.75, 0, 0]
    np.save(tmp_path / "tiny-transformer" / f"{other.name}.npy", scores)
    ours, theirs = runner.run([cell, other])
    # Turns of 8 texts took 1 (not counted), 2, 3 and 4 seconds.
    assert (ours.turns, ours.documents, ours.first_turn_s) == (3, 8, 1.0)
    assert (ours.slowest, ours.docs_per_second, ours.fastest) == (2.0, 8 / 3, 4.0)
    words = sum(len(text.split()) for text in TEXTS)
    assert ours.tokens_per_second == pytest.approx(words / 3)
    assert ours.padding == pytest.approx(1 - words / 400)
    config = cells.describe("tiny-transformer").config
    work = sum(cells.flops(config, len(text.split())) for text in TEXTS)
    assert ours.flops_per_second == pytest.approx(work / 3)
    assert (ours.accuracy, ours.agreement) == (1.0, None)
    assert (theirs.accuracy, theirs.agreement, theirs.difference) == (7 / 8, 7 / 8, 0.75)
    assert ours.device == "CPU, 2 x made up"
    # With less precision, too, answers are compared with those of float32.
    less = dataclasses.replace(cell, precision="int8")
    np.save(tmp_path / "tiny-transformer" / f"{less.name}.npy", scores)
    reduced, ours = runner.run([less, cell])
    assert (reduced.agreement, ours.agreement) == (7 / 8, None)


def test_rows_come_back_from_their_files_and_replace_their_like(tmp_path: Path) -> None:
    cell = Cell("model", "minilm-L6", OURS, "jax", 32, 128)
    row = Row(**dataclasses.asdict(cell), status="ok", device="CPU, 2 x AMD EPYC", mfu=0.123456789)
    failed = dataclasses.replace(row, batch=1, status="failed", note='a, "b"\nc', mfu=None)
    rows.merge(tmp_path, [row, failed])
    assert [path.name for path in tmp_path.iterdir()] == ["cpu-2-x-amd-epyc_jax_float32.csv"]
    assert rows.read(tmp_path) == [failed, dataclasses.replace(row, mfu=0.12346)]
    rows.merge(tmp_path, [dataclasses.replace(row, mfu=0.5, commit="abc")])
    assert [(found.batch, found.mfu) for found in rows.read(tmp_path)] == [(1, None), (32, 0.5)]


def test_resume_leaves_out_what_this_commit_has_measured(tmp_path: Path) -> None:
    wanted = cells.all_cells(["tiny-transformer"], works=["model", "start"], backends=["jax"])
    rows.merge(
        tmp_path,
        [
            Row(**dataclasses.asdict(cell), status=status, commit=commit, device=device)
            for cell, status, commit, device in (
                (wanted[0], "ok", "new", "CPU"),
                (wanted[1], "timeout", "new", "CPU"),
                (wanted[2], "ok", "old", "CPU"),
                (wanted[3], "ok", "new", "GPU"),
            )
        ],
    )
    assert run.remaining(wanted, tmp_path, "new", "CPU") == [[cell] for cell in wanted[2:]]
    assert [wanted[3]] not in run.remaining(wanted, tmp_path, "new", "GPU")
    assert len(run.remaining(wanted, tmp_path, "new", "GPU")) == len(wanted) - 1
    group = start_cells("jax", "torch")  # of which one row is not enough: they are compared
    first = Row(**dataclasses.asdict(group[0]), status="ok", commit="new", device="CPU")
    rows.merge(tmp_path, [first])
    assert run.remaining(group, tmp_path, "new", "CPU") == [group]


def test_ctrl_c_keeps_the_rows_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[Cell]] = []

    def one_group(runner: run.Runner, group: Sequence[Cell]) -> list[Row]:
        calls.append(group)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [
            Row(**dataclasses.asdict(cell), status="ok", device="CPU, made up") for cell in group
        ]

    monkeypatch.setattr(run.Runner, "run", one_group)
    monkeypatch.setattr(run.Runner, "prepare", lambda *_: None)
    arguments = ["--entries", "tiny-transformer", "--works", "model", "--peers", "", "--output"]
    done = CliRunner().invoke(run.main, [*arguments, str(tmp_path)])
    assert done.exit_code == 130
    assert "1 rows are kept" in done.stderr
    assert [row.cell for row in rows.read(tmp_path)] == list(calls[0])
    # What a few texts give is not put among the figures that are published.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.Runner, "run", lambda _, group: one_group(None, group))
    quick = ["--quick", "--entries", "tiny-transformer", "--works", "model", "--backends", "jax"]
    assert CliRunner().invoke(run.main, quick).exit_code == 0
    assert len(rows.read(tmp_path / "build" / "bench")) == 1
    nothing = ["--works", "training", "--precision", "int8", "--peers", ""]
    done = CliRunner().invoke(run.main, nothing)
    assert (done.exit_code, "nothing is of these" in done.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.once
def test_a_real_run(tmp_path: Path) -> None:
    backend = keras_agnews_backend()
    agnews = write_agnews(tmp_path / "agnews")
    arguments = ["--quick", "--entries", "tiny-transformer", "--works", "strings", "--rounds", "1"]
    arguments += ["--backends", backend, "--peers", "padded", "--data", agnews]
    arguments += ["--output", tmp_path / "rows", "--scratch", tmp_path / "scratch"]
    done = CliRunner().invoke(run.main, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ours, padded = rows.read(tmp_path / "rows")
    assert (ours.status, padded.status) == ("ok", "ok"), (ours.note, padded.note)
    assert (ours.competitor, padded.competitor) == (OURS, "padded")
    assert {ours.backend, padded.backend} == {backend}
    words = sum(len(text.split()) for text in TEXTS)
    assert padded.padding == pytest.approx(1 - words / (8 * 256), abs=1e-4)
    assert 0 < (ours.padding or 0) < (padded.padding or 0)
    assert (padded.agreement, ours.weights, ours.turns) == (1.0, "trained", 1)
    assert (padded.difference or 0) < 1e-5
    assert f"keras_agnews {keras_agnews.__version__}" in ours.versions
    assert ours.peak_flops_per_second
    assert ours.peak_mb
    assert f"{ours.docs_per_second:,.1f}" in done.stdout


def keras_agnews_backend() -> str:
    import keras

    return str(keras.backend.backend())


# Peers. Those that are not installed are tested where the extra `bench` is.

HUGGING_FACE = ("torch", "transformers")
ANSWERING = [
    pytest.param("transformers", {}, 1e-5, marks=needs(*HUGGING_FACE)),
    pytest.param(
        "transformers", {"compiled": True}, 1e-5, marks=(needs(*HUGGING_FACE), pytest.mark.slow)
    ),
    pytest.param("transformers_pipeline", {}, 1e-5, marks=needs(*HUGGING_FACE)),
    pytest.param("keras_hub", {"length": 40}, 1e-5, marks=needs("keras_hub", "tensorflow_text")),
    pytest.param("onnx_runtime", {}, 1e-5, marks=needs("onnxruntime", "onnx")),
    pytest.param("onnx_runtime", {"by_length": True}, 1e-5, marks=needs("onnxruntime", "onnx")),
    pytest.param(
        "onnx_runtime", {"graph": "export.onnx"}, 1e-5, marks=needs("onnxruntime", "onnx")
    ),
    pytest.param(
        "onnx_runtime",
        {"by_length": True, "int8": True},
        0.1,
        marks=needs("onnxruntime", "onnx"),
    ),
    pytest.param("padded_keras", {}, 1e-5),
]


@pytest.fixture(params=["first", "mean"])
def small_bert(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """A small BERT of each pooling, in every form that it has."""
    from keras_agnews.classifier import TextClassifier

    config = oracle.bert_config(hidden_act="gelu_new", layer_norm_eps=1e-12)
    source = oracle.checkpoint(tmp_path / "source", config, oracle.random_tensors(config, 3))
    clf = keras_agnews.load(source)
    if request.param == "mean":
        change = {"pooling": "mean", "pooler": False}
        settings = dataclasses.replace(clf.description.config, **change)
        description = dataclasses.replace(clf.description, config=settings)
        clf = TextClassifier(description, clf.tokenizer)
    prepare.write(clf, tmp_path, ["hugging_face", "keras_hub", "onnx"])
    return clf, tmp_path


@pytest.mark.backend
@pytest.mark.once
@pytest.mark.parametrize(("module", "options", "tolerance"), ANSWERING)
def test_a_peer_answers_as_we_do(
    small_bert: tuple[Any, Path], module: str, options: dict[str, Any], tolerance: float
) -> None:
    clf, directory = small_bert
    load = importlib.import_module(f"benchmarks.peers.{module}").load
    model = peers.Model(directory, batch=3)
    if module == "keras_hub" and not clf.description.config.pooler:
        failed = json.loads((directory / "errors.json").read_text())
        assert failed["keras_hub"][0] == "unsupported"
        assert "pool" in failed["keras_hub"][1]
        return
    answer = load(model, **options)(TEXTS)
    np.testing.assert_allclose(answer.scores, clf.predict(TEXTS), atol=tolerance)
    lengths = clf.tokenizer.batch(TEXTS).lengths
    assert answer.positions >= lengths.sum()
    if options.get("by_length"):
        parts = np.split(np.sort(lengths)[::-1], range(3, len(TEXTS), 3))
        assert answer.positions == sum(part.max() * len(part) for part in parts)


@needs(*HUGGING_FACE)
@pytest.mark.backend
@pytest.mark.once
def test_the_loop_in_pytorch_learns(
    small_bert: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.peers import transformers_training

    opened, open_network = [], transformers_training.open_network

    def kept(model: peers.Model) -> Any:
        opened.append(open_network(model))
        return opened[-1]

    monkeypatch.setattr(transformers_training, "open_network", kept)
    labels = [i % 2 for i in range(len(TEXTS))]
    clf, directory = small_bert
    train = transformers_training.load(peers.Model(directory, batch=3, texts=TEXTS, labels=labels))
    ((network, *_),) = opened
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    lengths = np.sort(clf.tokenizer.batch(TEXTS).lengths)[::-1]
    for _ in range(2):  # of which the first step has no learning rate yet
        answer = train(TEXTS)
    assert answer.scores is None
    parts = np.split(lengths, range(3, len(TEXTS), 3))
    assert answer.positions == sum(part.max() * len(part) for part in parts)
    moved = {name for name, value in network.named_parameters() if (value != before[name]).any()}
    assert {name for name in before if "encoder.layer" in name and "key.bias" not in name} < moved
    assert any("classifier" in name for name in moved)


# Accuracy.


def test_accuracy_has_a_row_for_what_has_learnt_and_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agnews = write_agnews(tmp_path / "agnews", copies=2)

    def learn(name: str, model: peers.Model) -> Callable[[Sequence[str]], peers.Answer]:
        if name == "fasttext":
            raise ImportError("no fasttext")
        assert model.data == str(agnews)
        rows = {text.split(" ")[0]: "World" for text in TEXTS} | dict(SENTENCES)
        margins = 9 * np.eye(4, dtype=np.float32)
        return lambda texts: peers.Answer(
            margins[[LABELS.index(rows[text]) for text in texts]], probabilities=False
        )

    monkeypatch.setattr(peers, "load", learn)
    monkeypatch.setattr(accuracy, "of_entry", lambda *_: None)
    output = tmp_path / "accuracy.csv"
    arguments = ["--entries", "minilm-L6", "--data", agnews, "--output", output]
    done = CliRunner().invoke(accuracy.main, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "minilm-L6 has no trained weights" in done.stderr
    with output.open(newline="", encoding="utf-8") as stream:
        svm, fasttext = csv.DictReader(stream)
    assert (svm["model"], svm["accuracy"], svm["macro_f1"]) == ("tfidf-svm", "1", "1")
    assert (svm["rows"], svm["train_rows"], svm["seeds"]) == ("16", "16", "1")
    assert svm["calibration_error"] == ""  # margins are no probabilities
    assert (fasttext["accuracy"], fasttext["note"]) == ("", "not installed: no fasttext")
    assert svm["titles_accuracy"] == "0.25", "the titles, one word each, are all called World"
    table = report.accuracy_table(tmp_path)
    assert "| TF-IDF bigrams, linear SVM | 100.00% | 25.00% |  | 1.0000 |  | 16 |" in table
    assert "| fastText, bigrams | not installed |" in table
    # What is measured stays where a later one fails, and where nothing can be written it is said.
    output.unlink()

    def broken(name: str, *_: Any) -> dict[str, Any]:
        if name == "small-bert-L4":
            raise InputError("nowhere")
        return {"model": name, "accuracy": 0.5}

    monkeypatch.setattr(accuracy, "of_entry", broken)
    arguments[1] = "tiny-transformer,small-bert-L4"
    done = CliRunner().invoke(accuracy.main, [*map(str, arguments)])
    assert (done.exit_code, done.stderr) == (1, "Error: nowhere\n")
    assert [row["model"] for row in rows.read_accuracies(tmp_path)] == ["tiny-transformer"]
    arguments[-1] = "/dev/null/accuracy.csv"
    done = CliRunner().invoke(accuracy.main, [*map(str, arguments)])
    assert (done.exit_code, "/dev/null" in done.stderr) == (1, True)


def test_a_model_measured_anew_replaces_its_own_row_of_the_accuracies(tmp_path: Path) -> None:
    file = tmp_path / "results" / "accuracy.csv"
    for new in (
        [{"model": "svm", "accuracy": "0.9"}, {"model": "big", "parameters": "30"}],
        [{"model": "small", "parameters": "4"}, {"model": "svm", "accuracy": "0.8"}],
        [{"model": "svm", "note": "not installed"}],
    ):
        rows.merge_accuracies(file, ["model", "accuracy", "parameters"], new)
    assert rows.read_accuracies(file.parent) == [
        {"model": "small", "accuracy": "", "parameters": "4"},
        {"model": "big", "accuracy": "", "parameters": "30"},
        {"model": "svm", "accuracy": "0.8", "parameters": ""},
    ]
    # The spread over several runs is of the weights, whatever measures these once more.
    spread = {"accuracy_min": "0.7", "accuracy_max": "0.8", "seeds": "3"}
    once = {"accuracy_min": "0.8", "accuracy_max": "0.8", "seeds": "1"}
    other = {"model": "svm", "accuracy": "0.9", "accuracy_min": "0.9", "seeds": "1"}
    names = ["model", "accuracy", "parameters", *spread]
    for row, wanted in (
        ({"model": "svm", "accuracy": "0.8"} | spread, "3"),
        ({"model": "svm", "accuracy": "0.8"} | once, "3"),
        (other, "1"),
    ):
        rows.merge_accuracies(file, names, [row])
        assert rows.read_accuracies(file.parent)[-1]["seeds"] == wanted
    # Rows without titles say nothing of those; other weights do.
    names += ["titles_accuracy", "note"]
    other["note"] = ""
    for row, wanted in (
        (other | {"titles_accuracy": "0.7", "note": "by hand"}, ("0.7", "by hand")),
        (other, ("0.7", "")),
        (other | {"accuracy": "0.95"}, ("", "")),
    ):
        rows.merge_accuracies(file, names, [row])
        last = rows.read_accuracies(file.parent)[-1]
        assert (last["titles_accuracy"], last["note"]) == wanted


def test_the_zoos_table_has_every_entry_and_what_is_known_of_it(tmp_path: Path) -> None:
    (tmp_path / "accuracy.csv").write_text("model,accuracy\ntiny-transformer,0.5\nfasttext,0.9\n")
    _, _, *lines = report.zoo_table(tmp_path).splitlines()
    cells_of = {line.split("`")[1]: [c.strip() for c in line.split("|")[2:5]] for line in lines}
    assert sorted(cells_of) == registry.list_models()
    assert next(iter(cells_of)) == "tiny-transformer", "the smallest first"
    assert cells_of["tiny-transformer"] == ["659,592", "50.00%", "shipped, 1.32 MB"]
    assert cells_of["small-bert-L4"][1] == "not measured yet"
    assert cells_of["bert-base"][1:] == ["not trained yet", "pretrained base, on the Hub"]
    assert re.fullmatch(r"a difference, shipped, \S+ MB; .* Hub", cells_of["minilm-L6"][2])


@pytest.mark.parametrize(
    "name", [needs_of("tfidf-svm", "sklearn"), needs_of("fasttext", "fasttext")]
)
def test_a_classic_learns_by_heart(name: str, tmp_path: Path) -> None:
    agnews = write_agnews(tmp_path / "agnews", copies=50)
    answer = peers.load(name, peers.Model(tmp_path, data=str(agnews)))(TEXTS)
    assert answer.scores is not None
    expected = [LABELS.index(label) for _, label in SENTENCES]
    assert answer.scores.argmax(axis=1).tolist() == expected
    sums = answer.scores.sum(axis=1)
    assert not answer.probabilities or sums == pytest.approx(np.ones(8), abs=1e-3)


@pytest.mark.backend
@pytest.mark.once
def test_accuracy_of_an_entry(tmp_path: Path) -> None:
    from keras_agnews import data

    test = data.load_agnews("test", write_agnews(tmp_path / "agnews"))
    row = accuracy.of_entry("tiny-transformer", (), test)
    assert row is not None
    clf = keras_agnews.load("tiny-transformer")
    right = [
        answer.label == label
        for answer, (_, label) in zip(clf.classify(TEXTS), SENTENCES, strict=True)
    ]
    assert row["accuracy"] == pytest.approx(np.mean(right))
    assert (row["model"], row["seeds"], row["train_rows"]) == ("tiny-transformer", 1, 59_392)
    recipe = clf.description.recipe
    assert row["cost_minutes"] == recipe["minutes"]
    keras_agnews.load("tiny-transformer", weights=None).save_bundle(tmp_path / "other")
    other = accuracy.of_entry("tiny-transformer", [str(tmp_path / "other")], test)
    assert other is not None
    assert (other["accuracy"], other["accuracy_max"]) == (row["accuracy"], row["accuracy"])
    assert (other["seeds"], other["accuracy_min"] < 0.6) == (2, True), "untrained"
    before = {"name": "tiny-transformer", "recipe": recipe}
    clf.describe(recipe=recipe | {"start": before, "minutes": 1.5})
    clf.save_bundle(tmp_path / "went-on")
    row = accuracy.of_entry(str(tmp_path / "went-on"), (), test)
    assert row is not None
    assert row["cost_minutes"] == pytest.approx(recipe["minutes"] + 1.5)
    keras_agnews.load("tiny-transformer", labels=["a", "b"]).save_bundle(tmp_path / "stranger")
    with pytest.raises(InputError, match="stranger has no trained head for the labels of tiny"):
        accuracy.of_entry("tiny-transformer", [str(tmp_path / "stranger")], test)
    titles = accuracy.titles_alone(test, str(tmp_path / "agnews"))
    assert titles is not None
    assert titles.texts == [text.split(" ")[0] for text in TEXTS]
    row = accuracy.of_entry("tiny-transformer", (), test, titles)
    assert row is not None
    answers = zip(clf.classify(titles.texts), SENTENCES, strict=True)
    right = [answer.label == label for answer, (_, label) in answers]
    assert row["titles_accuracy"] == pytest.approx(np.mean(right))
    joined = tmp_path / "joined"
    joined.mkdir()
    (joined / "test.csv").write_text("1,a joined text\n")
    assert accuracy.titles_alone(test, str(joined)) is None


def test_scores_become_figures() -> None:
    probabilities = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]] * 4, np.float32)
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 0])
    found = accuracy.score(probabilities, labels, True)
    assert found["accuracy"] == 7 / 8
    assert found["calibration_error"] == pytest.approx(7 / 8 - 0.7)
    assert found["f1_World"] == pytest.approx(8 / 9)
    assert accuracy.score(probabilities, labels, False)["calibration_error"] is None
    both = [found, found | {"accuracy": 5 / 8}]
    assert accuracy.mean(both)["accuracy"] == 0.75
    assert accuracy.spread(both) == {"accuracy_min": 5 / 8, "accuracy_max": 7 / 8, "seeds": 2}


# What a reader sees.


def made_up(**changes: Any) -> Row:
    cell = {"work": "strings", "entry": "tiny-transformer", "competitor": OURS, "backend": "jax"}
    facts = {"device": "CPU, 2 x made up", "date": "2026-01-02T03:04:05+00:00", "versions": "a 1"}
    rate = {"status": "ok", "docs_per_second": 1234.5, "parameters": 659_592}
    return Row(**cell | facts | rate | changes)


def test_documents_are_what_the_files_say() -> None:
    done = CliRunner().invoke(report.main, ["--check"])
    assert done.exit_code == 0, done.output
    zoo, speed = ("zoo", "accuracy", "families"), ("strings", "model", "start", "training")
    for directory, names in (("", zoo), ("benchmarks", speed)):
        document = (ROOT / directory / "README.md").read_text(encoding="utf-8")
        for name in names:
            assert document.count(f"<!-- benchmarks:{name} -->\n") == 1
            assert document.count(f"<!-- /benchmarks:{name} -->\n") == 1
        for path in re.findall(r"\]\(([^)#:]+)[)#]", document):
            assert (ROOT / directory / path).exists(), path


def test_tables_stand_between_their_markers(tmp_path: Path) -> None:
    slow = made_up(competitor="onnx", backend="onnxruntime", docs_per_second=500.0)
    missing = made_up(
        competitor="padded", backend="torch", docs_per_second=None, status="not installed"
    )
    rows.merge(tmp_path, [made_up(weights="random weights"), slow, missing])
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- benchmarks:strings -->\nold\n<!-- /benchmarks:strings -->\nb\n")
    options = ["--results", str(tmp_path), "--document", str(readme)]
    check = CliRunner().invoke(report.main, [*options, "--check"])
    assert check.exit_code == 1
    assert "old" in readme.read_text()
    done = CliRunner().invoke(report.main, [*options, "--no-pictures"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("a", "b")
    assert "| keras_agnews, JAX | **1,234** |" in lines
    assert "| ONNX Runtime | 500 (2.5 x) |" in lines
    assert "| padded, Keras's predict, PyTorch | not installed |" in lines
    assert any("`tiny-transformer`: random weights" in line for line in lines)
    assert CliRunner().invoke(report.main, [*options, "--check"]).exit_code == 0
    sized = {"work": "model", "batch": 32, "length": 128, "ms_per_batch": 1.0}
    peaks = [("jax", "float32", 190e9), ("torch", "float32", 204e9), ("torch", "bfloat16", 400e9)]
    table = report.model_table(
        [
            made_up(backend=backend, precision=precision, peak_flops_per_second=peak, **sized)
            for backend, precision, peak in peaks
        ]
    )
    assert table.endswith("\nThe peak: 190 to 204 GFLOP/s in float32, 400 GFLOP/s in bfloat16.\n")
    readme.write_text("<!-- benchmarks:nothing -->\n<!-- /benchmarks:nothing -->\n")
    assert "not known" in CliRunner().invoke(report.main, options).output


def test_of_a_family_the_fastest_is_shown() -> None:
    found = [
        made_up(competitor="onnx-int8", backend="onnxruntime", precision="int8"),
        made_up(competitor="keras-hub-512", docs_per_second=None, status="timeout"),
        made_up(competitor="keras-hub-128", docs_per_second=100.0),
        made_up(competitor="tfhub", docs_per_second=None, status="unsupported"),
        made_up(precision="bfloat16", docs_per_second=600.0),
        made_up(docs_per_second=300.0),
        made_up(backend="torch", docs_per_second=400.0),
    ]
    for order in (found, found[::-1]):
        assert report.families_table(order).splitlines()[2:] == [
            "| keras_agnews | **400** |",
            "| keras_agnews, bfloat16 | 600 (0.67 x) |",
            "| KerasHub | 100 (4 x) |",
            "| TF-Hub SavedModels | unsupported |",
            "| ONNX Runtime, int8 | 1,234 (0.32 x) |",
        ]


@needs("matplotlib")
def test_pictures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    from benchmarks import pictures

    own = {"transformers-training": "in no picture"}
    families = {peer.family or peer.title for name, peer in peers.PEERS.items() if name not in own}
    assert set(pictures.LOOKS) == families | {"keras_agnews"}
    assert len(set(pictures.LOOKS.values())) == len(pictures.LOOKS)
    fast, slow = made_up(padding=0.1), made_up(backend="torch", docs_per_second=99.0, padding=0.02)
    sizes = {"slowest": 5.0, "fastest": 2_000.0, "length": 128, "work": "model"}
    rows.merge(tmp_path, [fast, slow, *(made_up(batch=n, **sizes) for n in (1, 32))])
    fields = {"model": "tiny-transformer", "accuracy": "0.91"}
    rows.write_csv(tmp_path / rows.ACCURACY_FILE, list(fields), [fields])
    names = [path.name for path in pictures.draw(tmp_path)]
    assert names == [
        f"cpu-2-x-made-up_{name}.png"
        for name in ("accuracy-throughput", "throughput-by-batch", "padding")
    ]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


@needs("matplotlib")
def test_less_precision_is_drawn_at_what_it_cost_in_its_own_run(tmp_path: Path) -> None:
    """The weights may be others since."""
    from matplotlib import pyplot

    from benchmarks import pictures

    fields = {"model": "tiny-transformer", "accuracy": "0.91"}
    rows.write_csv(tmp_path / rows.ACCURACY_FILE, list(fields), [fields])
    whole = {"documents": 7_600, "commit": "a"}
    found = [
        made_up(accuracy=0.95, **whole),
        made_up(accuracy=0.94, precision="bfloat16", docs_per_second=2_000.0, **whole),
        made_up(accuracy=0.99, precision="int8", docs_per_second=3_000.0, documents=7_600),
    ]
    figure = pictures.accuracy_throughput(pyplot, "made up", found, tmp_path)
    drawn = {(x, round(y, 6)) for line in figure.axes[0].lines for x, y in line.get_xydata()}
    pyplot.close(figure)
    assert {(1234.5, 91.0), (2_000.0, 90.0)} <= drawn
    assert 3_000.0 not in {x for x, _ in drawn}, "of that run there is no float32"


def test_a_worker_says_what_is_missing(fresh: Callable[..., str], tmp_path: Path) -> None:
    """The real process, for a peer whose weights could not be written for want of a package."""
    (tmp_path / "errors.json").write_text(json.dumps({"onnx": ["not installed", "no onnx"]}))
    cell = Cell("strings", "tiny-transformer", "onnx", "onnxruntime")
    child = processes.Child(run.WORKER, {}, tmp_path / "log")
    try:
        job = run.Job(cell, str(tmp_path), texts=8)
        with pytest.raises(processes.ChildError) as caught:
            child.ask(job.to_json(), 60)
    finally:
        child.close()
    assert (caught.value.status, caught.value.note) == ("not installed", "ImportError: no onnx")


def test_rows_document_every_column() -> None:
    described = inspect.getdoc(Row) or ""
    for field in dataclasses.fields(Row):
        assert field.name in described, field.name
