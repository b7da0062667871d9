"""A cell's process: `python -m benchmarks.worker`, spoken to in lines.

It reads a `Job`, answers `{"ready": true}` and then a line for each line: to "turn" the seconds of
one turn and the documents done, to "end" what else the row says, and then it is gone. What goes
wrong is one line with `status` and `note`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, place
from benchmarks.cells import OURS
from benchmarks.jobs import Job
from benchmarks.prepare import ERRORS_FILE, status_of
from benchmarks.texts import Texts

Turn = Callable[[], dict[str, Any]]
Facts = Callable[[], dict[str, Any]]

LEAST_SECONDS = 0.5  # of a turn of token ids to logits; shorter passes are repeated


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not pass for an answer

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        job = Job.from_json(sys.stdin.readline())
        turn, facts = open_work(job)
        answer({"ready": True})
        for line in sys.stdin:
            if line.strip() == "end":
                answer(memory() | facts() | versions(job))
                break
            answer(turn())
    except BaseException as error:
        words = " ".join(str(error).split())
        answer({"status": status_of(error), "note": f"{type(error).__name__}: {words}"})
        raise


def open_work(job: Job) -> tuple[Turn, Facts]:
    """What a turn does, and what is to be said at the end."""
    if job.cell.competitor != OURS:
        return _peer(job)
    works = {"strings": _strings, "model": _model, "training": _training}
    return _start(job) if job.cell.work == "start" else _with_peak(works[job.cell.work], job)


def _with_peak(work: Callable[[Job], tuple[Turn, Facts]], job: Job) -> tuple[Turn, Facts]:
    """Of our own cell, with the matrix peak as the better of before and after its turns.

    A processor's busy minute would else be taken for its best, and a share of it come out above
    1. A GPU has one user, and the products would count as the model's memory there.
    """
    from keras_agnews.device import on_cpu

    turn, facts = work(job)
    before = place.matrix_peak(job.cell.precision) if on_cpu() else 0.0

    def whole() -> dict[str, Any]:
        return facts() | {"peak_flops": max(before, place.matrix_peak(job.cell.precision))}

    return turn, whole


def memory() -> dict[str, Any]:
    peak = place.peak_bytes()
    return {"peak_mb": peak and round(peak / 1e6)}


def versions(job: Job) -> dict[str, Any]:
    peer = peers.PEERS.get(job.cell.competitor)
    named = ("keras_agnews", "keras") if peer is None else (peer.package,)
    return {"versions": place.versions(*named, job.cell.backend, "numpy")}


def open_ours(job: Job) -> Any:
    """The entry at the cell's precision, as a user of it would set that."""
    import keras_agnews

    clf = keras_agnews.load(job.bundle, mixed_precision=job.cell.precision == "bfloat16")
    if job.cell.precision == "int8":
        clf.model.quantize("int8")
    return clf


def _strings(job: Job) -> tuple[Turn, Facts]:
    from keras_agnews import inference

    sizes: list[int] = []  # appended to by several threads
    compile_forward = inference.compile_forward

    def counting(model: Any) -> Any:
        forward = compile_forward(model)

        def run(inputs: Any, *rest: Any) -> Any:
            sizes.append(inputs["input_word_ids"].size)
            return forward(inputs, *rest)

        return run

    # Before a classifier takes it, so that whatever it does with its batches is counted.
    inference.compile_forward = counting
    clf = open_ours(job)
    texts = Texts.read(job.directory).sample(job.texts).texts

    def turn() -> dict[str, Any]:
        sizes.clear()
        start = time.perf_counter()
        answer = clf.predict(texts)
        seconds = time.perf_counter() - start
        _keep(answer, job)
        return {"seconds": seconds, "count": len(texts)}

    def facts() -> dict[str, Any]:
        return place.facts(job.cell.backend) | {"positions": sum(sizes)}

    return turn, facts


def _peer(job: Job) -> tuple[Turn, Facts]:
    cell, peer = job.cell, peers.PEERS[job.cell.competitor]
    _check_form(Path(job.directory), peer.form)
    kind = "train" if cell.work == "training" else "test"
    texts = Texts.read(job.directory, kind).sample(job.texts)
    model = peers.Model(
        directory=Path(job.directory),
        backend=cell.backend,
        precision=cell.precision,
        batch=cell.batch or (256 if job.gpu else 32),  # what suits each of them
        gpu=job.gpu,
        data=job.data,
        texts=texts.texts if cell.work == "training" else (),
        labels=texts.labels or (),
    )
    start = time.perf_counter()
    run = peers.load(cell.competitor, model)
    load_seconds = time.perf_counter() - start
    answer: peers.Answer | None = None

    def turn() -> dict[str, Any]:
        nonlocal answer
        start = time.perf_counter()
        found = run(texts.texts)
        seconds = time.perf_counter() - start
        if found.scores is not None:
            _keep(found.scores, job)
        answer = found
        return {"seconds": seconds, "count": len(texts.texts)}

    def facts() -> dict[str, Any]:
        learned = {"learn_seconds": load_seconds} if "classic" in peer.kinds else {}
        where = place.facts(cell.backend)
        if job.gpu and cell.backend == "onnxruntime":  # which cannot be asked, and ran there
            where["device"] = place.device(gpu=True)
        return where | {"positions": answer.positions if answer else 0} | learned

    return turn, facts


def _check_form(directory: Path, form: str) -> None:
    """Raise what kept the weights from being written in that form."""
    file = directory / ERRORS_FILE
    failed = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if form in failed:
        from keras_agnews.errors import InputError

        status, message = failed[form]
        kinds = {"not installed": ImportError, "unsupported": InputError}
        raise kinds.get(status, RuntimeError)(message)


def _keep(scores: np.ndarray, job: Job) -> None:
    if job.scores:
        np.save(job.scores, scores)


def _model(job: Job) -> tuple[Turn, Facts]:
    from keras_agnews.inference import compile_forward

    cell = job.cell
    clf = open_ours(job)
    forward = compile_forward(clf.model)
    size = clf.description.config.vocabulary_size
    shape = (cell.batch, cell.length)
    drawn = np.random.default_rng(0).integers(1, size, shape, dtype=np.int32)
    inputs = {name: np.zeros_like(drawn) for name in clf.model.input} | {"input_word_ids": drawn}
    forward(inputs)  # compiles

    def turn() -> dict[str, Any]:
        start, passes = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < LEAST_SECONDS or not passes:
            forward(inputs)
            passes += 1
        return {"seconds": seconds, "count": passes * cell.batch}

    def facts() -> dict[str, Any]:
        return place.facts(cell.backend)

    return turn, facts


_FIRST_ANSWER = """
import sys, time
import keras_agnews
keras_agnews.load(sys.argv[1]).predict("Oil prices rose as traders feared a shortage this winter")
print(time.time())
"""
_IMPORT = "import sys, time, importlib; importlib.import_module(sys.argv[1]); print(time.time())"


def _start(job: Job) -> tuple[Turn, Facts]:
    backend = job.cell.backend

    def seconds(code: str, argument: str) -> float:
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
        return float(done.stdout.split()[-1]) - start

    def turn() -> dict[str, Any]:
        whole, alone = seconds(_FIRST_ANSWER, job.source), seconds(_IMPORT, backend)
        return {"seconds": whole, "count": 1, "import_seconds": alone}

    def facts() -> dict[str, Any]:
        importlib.import_module(backend)
        peak = place.peak_bytes(children=True)
        return place.facts(backend) | {"peak_mb": peak and round(peak / 1e6)}

    return turn, facts


def _training(job: Job) -> tuple[Turn, Facts]:
    import keras

    from keras_agnews import batching
    from keras_agnews.recipes import make_optimizer, make_recipe

    clf = open_ours(job)
    texts = Texts.read(job.directory, "train").sample(job.texts)
    labels = np.asarray(texts.labels, np.int32)
    dataset = clf.dataset(texts.texts, labels, job.cell.batch, shuffle=True, seed=0)
    dataset.start_epoch(0)  # the same batches in every turn
    clf.model.compile(
        optimizer=make_optimizer(make_recipe(clf, "full"), 10_000),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def turn() -> dict[str, Any]:
        start = time.perf_counter()
        keras.Model.fit(clf.model, batching.for_keras(dataset), shuffle=False, verbose=0)
        return {"seconds": time.perf_counter() - start, "count": len(texts.texts)}

    def facts() -> dict[str, Any]:
        sizes = (dataset[i][0]["input_word_ids"].size for i in range(len(dataset)))
        return place.facts(job.cell.backend) | {"positions": sum(sizes)}

    return turn, facts


if __name__ == "__main__":
    main()
