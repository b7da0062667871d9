"""The `keras-agnews` command.

Standard output carries results only. Keras and its backend are imported by the commands that
compute, and not before their arguments have been checked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from keras_agnews import __version__, bundle, records, registry, text_files
from keras_agnews.bundle import Bundle
from keras_agnews.console import (
    human_bytes,
    print_json,
    print_pairs,
    print_table,
    printable,
    progress_bar,
)
from keras_agnews.errors import InputError, KerasAgnewsError, NotFoundError
from keras_agnews.files import check_writable, expanded, locked
from keras_agnews.startup import BACKENDS, start_backend
from keras_agnews.streams import read_lines

if TYPE_CHECKING:
    from keras_agnews.classifier import Prediction, TextClassifier
    from keras_agnews.data import Dataset

DEFAULT_MODEL = "tiny-transformer"
# What a shell reports of a program that SIGINT or SIGPIPE ended.
INTERRUPTED, OUTPUT_CLOSED = 130, 141
_VALIDATION = "validation"  # as `finetune` calls the rows that chose the epoch


class _Commands(click.Group):
    """Turns what can go wrong outside this program into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        if sys.stderr is None:  # or click would put errors among the results
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        if sys.stdout is None:  # closed before the start
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        elif isinstance(sys.stdout, io.TextIOWrapper):
            # A lone surrogate becomes `\udcff`, which is its escape in JSON too.
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                # A second one ends the process while this one waits for its threads.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                click.echo("Interrupted", err=True)
                ctx.exit(INTERRUPTED)
            except BrokenPipeError:
                _discard_output()
                ctx.exit(OUTPUT_CLOSED)
            except KerasAgnewsError as error:
                raise click.ClickException(printable(str(error))) from error
            except OSError as error:
                _discard_output()
                raise click.ClickException(printable(str(error))) from error


def _discard_output() -> None:
    """Python writes what is left in the buffer when it ends, and would fail once more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if Path(filename).resolve().is_relative_to(Path(__file__).resolve().parent):
        click.echo(f"Warning: {printable(str(message))}", err=True)


def _choose_backend(ctx: click.Context, parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        os.environ["KERAS_BACKEND"] = name


_backend_option = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    callback=_choose_backend,
    expose_value=False,
    help="What Keras computes with, instead of KERAS_BACKEND, keras.json's or the first installed.",
)
_base_option = click.option(
    "--base", metavar="DIR", help="The pretrained base, where it is not to be fetched."
)
_precision_option = click.option(
    "--mixed-precision",
    is_flag=True,
    help="Compute in bfloat16: faster with PyTorch on a processor, with JAX on a GPU.",
)
_columns_options = (
    click.option(
        "--text-column", metavar="NAME", help="Column or key of the text; text by default."
    ),
    click.option(
        "--label-column", metavar="NAME", help="Column or key of the label; label by default."
    ),
)
_format_option = click.option(
    "--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True
)


def _columns(command: Any) -> Any:
    for option in reversed(_columns_options):
        command = option(command)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keras-agnews", message="%(prog)s %(version)s")
@_backend_option
def commands() -> None:
    """Sort news, or any short texts, into topics."""


def main() -> None:
    """The entry point of the command."""
    commands(prog_name="keras-agnews")


# Answers.


@commands.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]... | -")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME_OR_PATH")
@click.option(
    "--format", "form", type=click.Choice(("text", "jsonl")), default="text", show_default=True
)
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="The K best labels only.")
@_base_option
@_precision_option
@_backend_option
def classify(
    texts: tuple[str, ...],
    model: str,
    form: str,
    top: int | None,
    base: str | None,
    mixed_precision: bool,
) -> None:
    """Print the label of each TEXT, or of each line of standard input.

    A line out for each line in, in order, as they come. In JSONL a line is an object of text,
    label, score (the label's probability), scores (every label's) and truncated (whether the
    text was longer than the model takes, and was cut).
    """
    if "-" in texts and len(texts) > 1:
        raise click.UsageError("'-' stands for standard input and cannot be mixed with texts")
    streams = texts in ((), ("-",))
    if streams and (sys.stdin is None or (not texts and sys.stdin.isatty())):
        raise click.UsageError("give texts, or pipe one a line into the command")
    # The other commands take the model first.
    if not streams and (
        registry.find(texts[0]) is not None
        or os.path.isfile(expanded(texts[0]) / bundle.CONFIG_FILE)  # False of a very long text
    ):
        raise click.UsageError(f"{texts[0]} is a model, no text: to classify by it, use --model")
    clf = _load(model, base=base, mixed_precision=mixed_precision)
    write = _json_line if form == "jsonl" else _text_line
    width = max(map(len, clf.labels))
    for batch in read_lines(sys.stdin.buffer) if streams else (list(texts),):
        predictions = clf.classify(batch)
        answers = zip(batch, predictions, strict=True)
        sys.stdout.writelines(write(text, answer, top, width) for text, answer in answers)
        sys.stdout.flush()


def _json_line(text: str, answer: Prediction, top: int | None, width: int) -> str:
    scores = answer.scores if top is None else dict(_best(answer, top))
    record = {
        "text": text,
        "label": answer.label,
        "score": _digits(answer.score),
        "scores": {label: _digits(score) for label, score in scores.items()},
        "truncated": answer.truncated,
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _text_line(text: str, answer: Prediction, top: int | None, width: int) -> str:
    best = [(answer.label, answer.score)] if top is None else _best(answer, top)
    labels = "  ".join(f"{printable(label):{width}}  {score:.3f}" for label, score in best)
    return f"{labels}  {printable(text)}\n"


def _best(answer: Prediction, top: int) -> list[tuple[str, float]]:
    return sorted(answer.scores.items(), key=lambda item: -item[1])[:top]


def _digits(score: float) -> float:
    """As many digits as float32 has."""
    return float(f"{score:.7g}")


@commands.command("explain")
@click.argument("name", metavar="NAME_OR_PATH")
@click.argument("text")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="FILE.html")
@click.option("--label", help="The label to explain, instead of the answer.")
@_base_option
@_backend_option
def explain_(name: str, text: str, output: Path, label: str | None, base: str | None) -> None:
    """Write a page that shows what each token of TEXT adds to the answer, and what it attends to.

    The page is one file and needs no network.
    """
    from keras_agnews import pages

    pages.check_path(output := expanded(output))
    clf = _load(name, base=base)
    from keras_agnews import attention
    from keras_agnews.explain_page import explanation_page

    seen = attention(clf, text, label=label)
    text_files.write_text(output, explanation_page(seen, clf.description.name))
    answer = seen.prediction
    print_pairs({"label": answer.label, "score": f"{answer.score:.3f}", "page": str(output)})


# The zoo.


@commands.command("list")
@click.argument("pattern", default="*", metavar="[PATTERN | hf://USER]")
@_format_option
def list_(pattern: str, form: str) -> None:
    """List the models whose name matches PATTERN, as '*bert*' does, or a user's on the Hub."""
    if pattern.startswith("hf://"):
        _list_hub(pattern, form)
        return
    rows = [_summary(name) for name in registry.list_models(pattern)]
    if form == "json":
        print_json(rows)
    elif not rows:
        raise NotFoundError(f"no model matches {pattern!r}: `keras-agnews list` shows all")
    else:
        print_table(
            {"name": "<", "parameters": ">", "accuracy": ">", "size": ">", "weights": "<"},
            [
                (row["name"], "", "", "", f"broken: {row['error']}")
                if "error" in row
                else (
                    row["name"],
                    f"{row['parameters']:,}",
                    _percent(row["accuracy"], row["accuracy_on"]),
                    row["size"],
                    row["weights"],
                )
                for row in rows
            ],
        )


def _list_hub(address: str, form: str) -> None:
    from keras_agnews import hub

    rows = hub.list_bundles(address)
    if form == "json":
        print_json(rows)
    elif not rows:
        raise NotFoundError(f"{address} shows no bundle; HF_TOKEN shows private ones")
    else:
        print_table(
            {"name": "<", "accuracy": ">", "seen by": "<", "revision": "<"},
            [
                (
                    row["name"],
                    "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
                    "you" if row["private"] else "all",
                    row["revision"] or "",
                )
                for row in rows
            ],
        )


def _summary(name: str) -> dict[str, Any]:
    directory = registry.locate(name)
    try:
        description = bundle.read(directory)
        return {
            "name": name,
            "parameters": description.parameters,
            **_accuracy(description),
            "bytes": _bytes(directory, description),
            "size": _size(directory, description),
            "weights": _whereabouts(directory, description),
        }
    except Exception as error:  # a third party's builder and files take part in this
        return {"name": name, "error": str(error) or type(error).__name__}


def _accuracy(description: Bundle) -> dict[str, Any]:
    """The accuracy on the most rows, and which data they are.

    A test split's is before others, and that of the validation rows the last.
    """
    measured = [
        row
        for row in description.results
        if row.get("metric") == "accuracy" and isinstance(row.get("value"), (int, float))
    ]
    if not measured:
        return {"accuracy": None, "accuracy_on": None}

    def rank(row: dict[str, Any]) -> tuple[bool, bool, int]:
        data = str(row.get("data", ""))
        return data != _VALIDATION, data.endswith(" test"), row.get("rows", 0)

    best = max(measured, key=rank)
    return {"accuracy": float(best["value"]), "accuracy_on": str(best.get("data", ""))}


def _percent(accuracy: float | None, data: str | None) -> str:
    if accuracy is None:
        return ""
    return f"{accuracy:.1%}" + (" of validation" if data == _VALIDATION else "")


def _bytes(directory: Path, description: Bundle) -> int | None:
    """Of the files of a bundle that has weights, or a difference to others, beside it."""
    weights = description.weights
    if weights is None or weights.beside is None:
        return None
    names = (bundle.CONFIG_FILE, weights.beside, description.vocabulary_file)
    return sum((directory / name).stat().st_size for name in names)


def _size(directory: Path, description: Bundle) -> str:
    if (count := _bytes(directory, description)) is None:
        return "" if description.weights is None else "on the Hub"
    return human_bytes(count)


def _whereabouts(directory: Path, description: Bundle) -> str:
    weights = description.weights
    if weights is None:
        return "none yet: train it"
    if weights.delta is not None:
        return f"a difference to {weights.source}"
    if weights.source is not None:
        return weights.source
    if directory.is_relative_to(registry.zoo_directory()):
        return "shipped"
    return str(directory)


@commands.command()
@click.argument("name", metavar="NAME_OR_PATH")
@_format_option
def info(name: str, form: str) -> None:
    """Tell everything that is known of a model."""
    directory = registry.locate(name)
    description = bundle.read(directory)
    values = description.to_dict()
    if form == "json":
        extra = {"parameters": description.parameters, "bytes": _bytes(directory, description)}
        print_json(values | extra | {"directory": str(directory)})
        return
    shown = {
        "name": description.name,
        "architecture": description.builder,
        "parameters": f"{description.parameters:,}",
        "labels": ", ".join(description.labels),
        "max length": f"{description.max_length} tokens",
        "weights": _whereabouts(directory, description),
        "size": _size(directory, description),
        "directory": str(directory),
    }
    details = {"config": values["config"], "tokenizer": values["tokenizer"]}
    details |= {"weights": values["weights"], "recipe": records.in_words(description.recipe)}
    details |= {"source": values["source"]}
    for key, part in details.items():
        shown |= {f"{key}.{name}": value for name, value in (part or {}).items()}
    for result in description.results:
        context = {k: v for k, v in result.items() if k not in ("metric", "value")}
        where = ", ".join(f"{k} {v}" for k, v in context.items())
        key, value = f"result.{result.get('metric')}", result.get("value")
        value = f"{f'{value:.4g}' if isinstance(value, float) else value} ({where})"
        shown[key] = f"{shown[key]}; {value}" if key in shown else value  # one on each data
    print_pairs(shown)


# The Hub.

_revision_option = click.option("--revision", metavar="COMMIT|BRANCH|TAG")


@commands.command()
@click.argument("model", metavar="NAME_OR_PATH")
@click.argument("repository", metavar="USER/NAME")
@click.option("--private/--public", default=None, help="Who sees a new repository.")
@click.option("--revision", metavar="BRANCH", help="Instead of main; made where it is missing.")
@click.option("--create-pr", is_flag=True, help="Propose it in a pull request.")
@click.option("--message", "commit_message", metavar="TEXT", help="The commit's title.")
@click.option("--tag", metavar="NAME", help="A name for the commit, e.g. v1.0.")
@click.option("--license", metavar="ID", help="For the card, e.g. mit.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@_format_option
def push(model: str, repository: str, form: str, **options: Any) -> None:
    """Share a model on the Hugging Face Hub, in one commit."""
    from keras_agnews.publishing import push as publish

    pushed = publish(model, repository, **options)
    if form == "json":
        print_json(dataclasses.asdict(pushed))
        return
    verb = "would send" if options["dry_run"] else "sent"
    sent = ", ".join(f"{path} ({human_bytes(count)})" for path, count in pushed.files.items())
    shown = {"model": pushed.address, "commit": pushed.revision or "none yet"}
    shown[verb] = sent or "nothing: all of it is there"
    if pushed.pull_request:
        shown["pull request"] = pushed.pull_request
    print_pairs(shown)


@commands.command()
@click.argument("source", metavar="hf://USER/NAME[@REVISION]")
@_revision_option
@click.option("--local-dir", metavar="DIR", help="Instead of the Hub client's cache.")
def pull(source: str, revision: str | None, local_dir: str | None) -> None:
    """Fetch a model, check every file, and print its directory."""
    from keras_agnews import hub

    click.echo(str(hub.pull(source, revision=revision, local_dir=local_dir)))


@commands.command()
@click.argument("source", metavar="hf://USER/NAME[@REVISION] | DIR")
@_revision_option
@_base_option
@_format_option
def verify(source: str, revision: str | None, base: str | None, form: str) -> None:
    """Check every file of a model against the Hub's record and against its own config.json."""
    from keras_agnews import hub

    files = hub.verify(source, revision=revision, base=base)
    if form == "json":
        print_json([dataclasses.asdict(file) for file in files])
        return
    print_table(
        {"file": "<", "SHA-256": "<", "agrees with": "<"},
        [(f.name, f.sha256, ", ".join(f.against) or "nothing to compare with") for f in files],
    )


# Measuring.


@commands.command()
@click.argument("name", metavar="NAME_OR_PATH")
@click.option(
    "--data",
    metavar="DIR_OR_FILE",
    help="AG News as a directory, CSV or parquet file, or your own CSV or JSONL file; "
    "without it AG News from KERAS_AGNEWS_DATA or the Hub.",
)
@_columns
@click.option("--record", is_flag=True, help="Write the figures into the bundle's config.json.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write a page, too: the figures, calibration, and the most confident mistakes.",
)
@_format_option
@_base_option
@_precision_option
@_backend_option
def evaluate(
    name: str,
    data: str | None,
    text_column: str | None,
    label_column: str | None,
    record: bool,
    report: Path | None,
    form: str,
    base: str | None,
    mixed_precision: bool,
) -> None:
    """Measure accuracy, F1, the confusion matrix and the speed of a model.

    The labels of your own rows must be among the model's, by name.
    """
    from keras_agnews import data as data_module
    from keras_agnews import hub, pages
    from keras_agnews.metrics import calibration_error, scores

    if report is not None:
        pages.check_path(report := expanded(report))
    if record:
        bundle.read(place := registry.locate(name))
        if hub.origin(place) is not None:
            remedy = "pull --local-dir makes a copy of your own"
            raise InputError(f"--record: {place} is in the Hub client's cache: {remedy}")
        check_writable(place, f"--record: {place}")
    clf = _load(name, base=base, mixed_precision=mixed_precision)
    dataset = data_module.load(
        data, "test", text_column=text_column, label_column=label_column, label_names=clf.labels
    )
    predictions, speed = _classify_timed(clf, dataset.texts)
    index = {label: i for i, label in enumerate(clf.labels)}
    result = scores(dataset.labels, [index[p.label] for p in predictions], len(clf.labels))
    error = calibration_error([list(p.scores.values()) for p in predictions], dataset.labels)
    truncated = sum(p.truncated for p in predictions)
    if report is not None:
        text_files.write_text(report, _report(clf, dataset, predictions))
    if record:
        measured = {
            "accuracy": result.accuracy,
            "macro_f1": result.macro_f1,
            "calibration_error": error,
            "documents_per_second": speed,
        }
        source = "agnews" if dataset.note == "complete" else dataset.name
        measured_on = f"{source} {dataset.split}".strip()
        _record(name, clf, measured_on, measured, len(dataset.texts), mixed_precision)
    per_class = {
        label: {**result.of_class(i), "rows": int(result.confusion[i].sum())}
        for label, i in index.items()
    }
    if form == "json":
        print_json(
            {
                "model": clf.description.name,
                "data": dataset.source,
                "note": dataset.note if dataset.split else "",
                "rows": len(dataset.texts),
                "truncated": truncated,
                "accuracy": result.accuracy,
                "macro_f1": result.macro_f1,
                "calibration_error": error,
                "documents_per_second": speed,
                "backend": os.environ["KERAS_BACKEND"],
                "labels": clf.labels,
                "confusion": result.confusion.tolist(),
                "per_class": per_class,
            }
        )
        return
    note = f" ({dataset.note})" if dataset.split else ""
    print_pairs(
        {
            "model": clf.description.name,
            "data": f"{dataset.source}{note}",
            "rows": f"{len(dataset.texts):,}, of which {truncated:,} longer than "
            f"{clf.max_length} tokens and cut",
            "accuracy": f"{result.accuracy:.2%}",
            "macro F1": f"{result.macro_f1:.2%}",
            "calibration error": f"{error:.2%}, expected, in 15 bins",
            "documents per second": f"{speed:,.0f} on {os.environ['KERAS_BACKEND']}, from strings "
            "to labels, compilation left out",
        }
    )
    click.echo()
    print_table(
        {"class": "<", "precision": ">", "recall": ">", "F1": ">", "rows": ">"},
        [
            (
                label,
                *("-" if c[key] is None else f"{c[key]:.2%}" for key in list(c)[:3]),
                f"{c['rows']:,}",
            )
            for label, c in per_class.items()
        ],
    )
    click.echo("\nConfusion matrix: a row is the true class, a column the answer.")
    print_table(
        {"": "<"} | dict.fromkeys(clf.labels, ">"),
        [
            (label, *(f"{count:,}" for count in result.confusion[i].tolist()))
            for label, i in index.items()
        ],
    )


def _report(clf: TextClassifier, dataset: Dataset, predictions: list[Prediction]) -> str:
    import numpy as np

    from keras_agnews.report import Answers, report_page

    answers = Answers(
        texts=dataset.texts,
        labels=dataset.labels,
        probabilities=np.array([[p.scores[label] for label in clf.labels] for p in predictions]),
        lengths=clf.tokenizer.batch(dataset.texts).lengths,
        truncated=sum(p.truncated for p in predictions),
        label_names=clf.labels,
    )
    return report_page(answers, clf.description.name, dataset.name)


def _record(
    name: str,
    clf: TextClassifier,
    data: str,
    measured: dict[str, float],
    rows: int,
    bfloat16: bool,
) -> None:
    """Put figures into a bundle's `config.json`, in place of older ones on the same data."""
    precision = {"precision": "bfloat16"} if bfloat16 else {}
    directory = registry.locate(name)
    new: list[dict[str, Any]] = [
        {"data": data, "rows": rows, "metric": metric, "value": round(value, 4)} | precision
        for metric, value in measured.items()
    ]
    new[-1] |= {"value": round(new[-1]["value"]), "backend": os.environ["KERAS_BACKEND"]}
    with locked(directory):
        description = bundle.read(directory)
        if description.weights != clf.description.weights:
            raise InputError(f"{directory} has been trained while it was measured: evaluate again")
        same = data, precision.get("precision")
        kept = [x for x in description.results if (x.get("data"), x.get("precision")) != same]
        # Those of float32 are the model's, and stand before.
        results = (*kept, *new) if bfloat16 else (*new, *kept)
        description = dataclasses.replace(description, results=results)
        text_files.write_json(directory / bundle.CONFIG_FILE, description.to_dict())


def _classify_timed(clf: TextClassifier, texts: list[str]) -> tuple[list[Prediction], float]:
    """The answers, and documents per second from strings to answers, without compilation.

    Timed is a second pass over the first window of texts, whose shapes are compiled by then.
    """
    from keras_agnews.batching import windows
    from keras_agnews.classifier import WINDOW

    predictions: list[Prediction] = []
    with progress_bar(True, len(texts)) as advance:
        for window in windows(len(texts), WINDOW):
            advance(len(predictions), "texts")
            predictions += clf.classify(texts[window])
        advance(len(texts), "texts")
    again = texts[:WINDOW]
    start = time.perf_counter()
    clf.classify(again)
    return predictions, len(again) / (time.perf_counter() - start)


# Training.


@commands.command()
@click.argument("name", metavar="NAME_OR_PATH")
@click.option(
    "--data",
    metavar="DIR_OR_FILE",
    help="As for evaluate; the labels are whatever the rows have.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR")
@_columns
@click.option(
    "--validation",
    metavar="FILE",
    help="Rows to choose the epoch by, as --data; of a directory its test split.",
)
@click.option(
    "--validation-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of --data that is held out where there is no --validation.  [default: 0.05]",
)
@click.option(
    "--weights",
    metavar="best|pretrained|none|PATH",
    help="Where to start: the model as it is, its pretrained base with a new head, nothing, or "
    "another model. By default a model of the zoo starts from its pretrained base, or from "
    "nothing where it has none, and another one as it is.",
)
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens at which a text is cut.")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "float16")),
    help="How the finished weights are stored.  [default: float32]",
)
@click.option("--resume", is_flag=True, help="Go on with the run that lies in --output.")
@click.option(
    "--recipe",
    type=click.Choice(("full", "head", "lora", "shipped")),
    help="Train everything; or freeze the encoder and train the head; or train low-rank updates "
    "and store these; or repeat how the model was made.",
)
@click.option("--epochs", type=click.IntRange(min=1))
@click.option("--batch-size", type=click.IntRange(min=1), metavar="TEXTS")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True))
@click.option("--warmup", type=click.FloatRange(0, 1, max_open=True), help="Share of the steps.")
@click.option("--word-dropout", type=click.FloatRange(0, 1), help="Share of the tokens.")
@click.option("--steps-per-epoch", type=click.IntRange(min=1))
@click.option("--validation-steps", type=click.IntRange(min=1))
@click.option("--mixed-precision/--no-mixed-precision", default=None, help="Compute in bfloat16.")
@click.option(
    "--delta-rank",
    type=click.IntRange(min=1),
    help="Store only what training has changed of the pretrained base, at this rank.",
)
@click.option(
    "--teacher",
    metavar="NAME_OR_PATH",
    help="Learn the answers of this model, or the mean of several separated by commas.",
)
@click.option("--teacher-weight", type=click.FloatRange(0, 1), help="Share of these answers.")
@click.option(
    "--crops", type=click.IntRange(min=0), help="Spans of each text that the teacher labels too."
)
@click.option(
    "--replacements",
    type=click.IntRange(min=0),
    help="Copies of each text, words replaced by near ones, that the teacher labels too.",
)
@click.option(
    "--teacher-embeddings/--own-embeddings",
    default=None,
    help="Start from the teacher's token embeddings, projected.",
)
@click.option(
    "--openings",
    type=click.IntRange(min=0),
    help="Beginnings of each text, of 3 to 12 words, that are trained on too.",
)
@click.option(
    "--ema-momentum",
    type=click.FloatRange(0, 1, max_open=True),
    help="End each epoch with the moving average of its weights; 0 for none.",
)
@click.option(
    "--pretrain-epochs",
    type=click.IntRange(min=0),
    help="First train the encoder to tell masked words of the texts.",
)
@click.option("--pretrain-learning-rate", type=click.FloatRange(0, min_open=True))
@_base_option
@click.option("--seed", type=click.IntRange(0, 2**32 - 1))
@_backend_option
def train(
    name: str,
    data: str | None,
    output: Path,
    text_column: str | None,
    label_column: str | None,
    validation: str | None,
    validation_fraction: float | None,
    weights: str | None,
    max_length: int | None,
    dtype: str | None,
    resume: bool,
    base: str | None,
    **recipe: Any,
) -> None:
    """Train a model on AG News or on your own rows, and write it to --output.

    What is not given is what suits the model; with --recipe shipped it is what the model's
    config.json records, and anything else is refused but another --seed, and --teacher and
    --weights to say where the recorded teachers and the recorded start lie. A model whose labels
    are the data's keeps their order; another one gets a new head for the labels of the data.
    """
    from keras_agnews import data as data_module

    output = expanded(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"--output {output} is a file: give a directory")
    if not resume and output.is_dir() and any(output.iterdir()):
        raise InputError(
            f"--output {output} is not empty: --resume goes on with the run in it; "
            "for a new run give another directory or empty it"
        )
    columns = {"text_column": text_column, "label_column": label_column}
    rows = data_module.load(data, "train", **columns)
    start_backend()
    from keras_agnews import runs
    from keras_agnews.loading import open_checkpoint

    description = open_checkpoint(name).description
    if recipe["recipe"] == "shipped":
        given = recipe | {"validation": validation, "validation_fraction": validation_fraction}
        given |= {"weights": weights, "dtype": dtype, "max_length": max_length}
        plan = runs.recorded_plan(description, given)
    else:
        plan = runs.Plan(
            recipe=recipe,
            start=runs.default_start(name, description) if weights is None else weights,
            validation_fraction=validation_fraction or runs.VALIDATION_FRACTION,
            dtype=dtype or "float32",
            max_length=max_length,
        )
    held_out = None
    if validation is not None:
        labels = runs.label_names(description, rows)
        held_out = data_module.load(validation, "test", **columns, label_names=labels)
    # Keras reports to standard output.
    with redirect_stdout(sys.stderr):
        result = runs.run(
            name,
            rows,
            output,
            plan,
            held_out=held_out,
            resume=resume,
            progress=True,
            base=base,
        )
    best = result["best_epoch"]
    # Not the epoch's own: a difference to a base answers a little other than it.
    figures = {row.get("metric"): row.get("value") for row in bundle.read(output).results}
    accuracy = figures.get("accuracy")
    print_pairs(
        {
            "best epoch": f"{best} of {len(result['history'])}",
            # None where a finished run's model has been trained on since.
            "validation accuracy": "not recorded" if accuracy is None else f"{accuracy:.2%}",
            "model": str(output),
        }
    )


# The backend.


def _load(name: str, **options: Any) -> TextClassifier:
    start_backend()
    from keras_agnews import load

    return load(name, **options)
