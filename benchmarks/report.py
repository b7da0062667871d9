"""The documents' tables and the pictures, from the CSV files: `python -m benchmarks.report`.

With --check nothing is written, and the exit code is 1 where a document is not what the files say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import click

from benchmarks import cells, rows
from benchmarks.cells import CLASSIC, OURS
from benchmarks.naming import BACKENDS, by_device, competitor, competitor_order, families
from benchmarks.peers import PEERS
from benchmarks.rows import Row
from keras_agnews import registry
from keras_agnews.console import human_bytes

HERE = Path(__file__).resolve().parent
DOCUMENTS = (HERE.parent / "README.md", HERE / "README.md")
_NOTHING = "Not measured yet: `python -m benchmarks.{}` does."
_BLOCK = re.compile(r"(<!-- benchmarks:(\w+) -->\n).*?(<!-- /benchmarks:\2 -->)", re.DOTALL)


def best(found: Iterable[Row], entry: str) -> Row | None:
    """Our fastest row of an entry's strings to labels, in float32 where it is there."""
    ours = [
        row
        for row in found
        if row.work == "strings" and row.entry == entry and row.competitor == OURS
        if row.docs_per_second is not None
    ]
    return max(
        ours, key=lambda row: (row.precision == "float32", row.docs_per_second), default=None
    )


# The tables. Each is of one device.


def strings_table(found: Sequence[Row]) -> str:
    """Strings to labels: a row a competitor, a column an entry."""
    names: dict[str, dict[str, Row]] = {}
    for row in sorted(found, key=competitor_order):
        names.setdefault(competitor(row), {})[row.entry] = row
    return _rates(found, names)


def families_table(found: Sequence[Row]) -> str:
    """Strings to labels: a row a family of competitors, whose fastest it is, a column an entry."""
    return _rates(found, families(found))


def _rates(found: Sequence[Row], names: Mapping[str, Mapping[str, Row]]) -> str:
    entries = _entries(found)
    ours = {entry: best(found, entry) for entry in entries}
    lines = []
    for name, of_entry in names.items():
        line = [name]
        line += [_rate(of_entry.get(entry), ours[entry]) for entry in entries]
        lines.append(line)
    heads = ["learnt here" if entry == CLASSIC else f"`{entry}`" for entry in entries]
    return _table(["documents a second", *heads], lines)


def _rate(row: Row | None, champion: Row | None) -> str:
    """Documents a second, and how many times as fast the champion is; itself in bold."""
    if row is None or not row.docs_per_second:
        return "" if row is None else row.status
    rate = _number(row.docs_per_second)
    if row is champion:
        return f"**{rate}**"
    if champion is None or not champion.docs_per_second or not _of_one_run(row, champion):
        return rate
    ratio = champion.docs_per_second / row.docs_per_second
    return f"{rate} ({ratio:.0f} x)" if ratio >= 10 else f"{rate} ({ratio:.2g} x)"


def _number(rate: float | None) -> str:
    """Two digits or more."""
    return "" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _of_one_run(row: Row, other: Row) -> bool:
    """Of one commit and within hours: on another day a machine of this name may be another one."""
    apart = datetime.fromisoformat(row.date) - datetime.fromisoformat(other.date)
    return row.commit == other.commit and abs(apart) < timedelta(hours=3)


def model_table(found: Sequence[Row]) -> str:
    """Token ids to logits: a row an entry, backend, precision and length."""
    found = [row for row in found if row.work == "model"]
    batches = sorted({row.batch for row in found})
    groups: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in sorted(found, key=lambda row: (_size(row), row.backend, row.precision, row.length)):
        key = (f"`{row.entry}`", BACKENDS[row.backend], row.precision, str(row.length))
        groups.setdefault(key, {})[row.batch] = row
    lines = []
    for key, of_batch in groups.items():
        line = list(key)
        for batch in batches:
            row = of_batch.get(batch)
            if row is None or row.docs_per_second is None:
                line.append("" if row is None else row.status)
            elif batch == 1:
                line.append(f"{row.ms_per_batch:.3g} ms")
            else:
                line.append(f"{row.docs_per_second:,.0f}")
        shares = [row.mfu for row in of_batch.values() if row.mfu is not None]
        line.append(f"{max(shares):.0%}" if shares else "")
        lines.append(line)
    heads = ["a text alone" if batch == 1 else f"texts/s by {batch}" for batch in batches]
    table = _table(
        ["entry", "backend", "precision", "tokens", *heads, "of the peak, at best"], lines
    )
    return table + _peaks(found)


def _peaks(found: Sequence[Row]) -> str:
    """What the rows' peaks were, which tells one machine of a name from another."""
    of_precision: dict[str, list[float]] = {}
    for row in sorted(found, key=lambda row: row.precision, reverse=True):
        if row.peak_flops_per_second:
            of_precision.setdefault(row.precision, []).append(row.peak_flops_per_second)
    told = [
        f"{_gigaflops(min(peaks), max(peaks))} in {precision}"
        for precision, peaks in of_precision.items()
    ]
    return f"\nThe peak: {', '.join(told)}.\n" if told else ""


def _gigaflops(*ends: float) -> str:
    return " to ".join(dict.fromkeys(f"{end / 1e9:,.0f}" for end in ends)) + " GFLOP/s"


def start_table(found: Sequence[Row]) -> str:
    """A fresh process to its first answer: a row an entry."""
    return _backend_table(
        [row for row in found if row.work == "start"],
        lambda row: f"{row.start_s:.1f} s ({row.start_beyond_import_s:.1f} s)",
        "first answer after (of these, beyond the backend's import)",
    )


def training_table(found: Sequence[Row]) -> str:
    """A full fine-tuning step: a row an entry."""
    return _backend_table(
        [row for row in found if row.work == "training"],
        lambda row: _number(row.docs_per_second),
        "documents a second",
    )


def _backend_table(found: Sequence[Row], text: Callable[[Row], str], head: str) -> str:
    columns = list(dict.fromkeys(map(competitor, sorted(found, key=competitor_order))))
    lines = []
    for entry in _entries(found):
        of_column = {competitor(row): row for row in found if row.entry == entry}
        line = [f"`{entry}`"]
        for column in columns:
            row = of_column.get(column)
            line.append("" if row is None else text(row) if row.status == "ok" else row.status)
        lines.append(line)
    return _table([head, *(name.removeprefix("keras_agnews, ") for name in columns)], lines)


def zoo_table(results: Path) -> str:
    """The zoo: a row an entry, smallest first."""
    accuracies = {row["model"]: row["accuracy"] for row in rows.read_accuracies(results)}
    lines = []
    for entry in sorted(registry.list_models(), key=lambda name: cells.describe(name).parameters):
        weights, directory = cells.describe(entry).weights, registry.find(entry)
        assert weights is not None
        assert directory is not None
        where = "pretrained base, on the Hub"
        if weights.beside is not None:
            size = human_bytes((directory / weights.beside).stat().st_size)
            where = f"shipped, {size}"
            if weights.source is not None:
                where = f"a difference, shipped, {size}; its base on the Hub"
        accuracy = "not trained yet" if weights.beside is None else "not measured yet"
        if accuracies.get(entry):
            accuracy = f"{float(accuracies[entry]):.2%}"
        parameters = f"{cells.describe(entry).parameters:,}"
        lines.append([f"`{entry}`", parameters, accuracy, where])
    return _table(["name", "parameters", "accuracy on AG News test", "weights"], lines)


def accuracy_table(results: Path) -> str:
    """Of accuracy.csv: a row a model."""
    found = rows.read_accuracies(results)
    if not found:
        return _NOTHING.format("accuracy") + "\n"
    lines = []
    for row in found:
        if not row["accuracy"]:
            lines.append([row["title"], row["note"].partition(":")[0], *[""] * 6])
            continue
        least, most = f"{float(row['accuracy_min']):.2%}", f"{float(row['accuracy_max']):.2%}"
        cost = float(row["cost_minutes"] or "nan")
        spent = f"{cost:,.1f} min" if cost >= 1 else f"{60 * cost:.0f} s"
        error, titles = row["calibration_error"], row.get("titles_accuracy")
        lines.append(
            [
                row["title"],
                f"{float(row['accuracy']):.2%}",
                f"{float(titles):.2%}" if titles else "",
                f"{least} to {most}, {row['seeds']} runs" if int(row["seeds"]) > 1 else "",
                f"{float(row['macro_f1']):.4f}",
                f"{float(error):.1%}" if error else "",
                f"{int(row['train_rows']):,}" if row["train_rows"] else "",
                "" if cost != cost else f"{spent}, {row['cost_on']}".removesuffix(", "),
            ]
        )
    heads = [
        "model",
        "accuracy",
        "headlines alone",
        "over several runs",
        "macro F1",
        "calibration error",
        "trained on",
        "cost",
    ]
    days = _span(row["date"] for row in found)
    note = (
        f"On {found[0]['texts']} ({int(found[0]['rows']):,} rows), {days}. Calibration error: "
        "expected, 15 bins. Headlines alone: of the same rows the titles. Cost: without that of "
        "the teachers.\n"
    )
    return _table(heads, lines) + "\n" + note


# Work, table, and whether versions and samples stand below it.
_TABLES: dict[str, tuple[str, Callable[[Sequence[Row]], str], bool]] = {
    "families": ("strings", families_table, False),
    "strings": ("strings", strings_table, True),
    "model": ("model", model_table, True),
    "start": ("start", start_table, True),
    "training": ("training", training_table, True),
}
_OTHER_TABLES = {"zoo": zoo_table, "accuracy": accuracy_table}


def block(name: str, results: Path) -> str:
    """What stands between the markers of that name."""
    if name in _OTHER_TABLES:
        return _OTHER_TABLES[name](results)
    if name not in _TABLES:
        raise click.ClickException(f"a block benchmarks:{name} is not known")
    work, table, detailed = _TABLES[name]
    found = [row for row in rows.read(results) if row.work == work]
    parts = [
        f"{table(of_device)}\n{_caption(device, of_device, detailed)}\n"
        for device, of_device in by_device(found).items()
    ]
    return "\n".join(parts) or _NOTHING.format("run") + "\n"


def _caption(device: str, found: Sequence[Row], detailed: bool) -> str:
    """Where, when and with what; and what the weights were, where they were not trained."""
    drawn: dict[str, list[str]] = {}
    for row in found:
        if row.weights not in ("", "trained"):
            names = drawn.setdefault(row.weights, [])
            names += [f"`{row.entry}`"] * (f"`{row.entry}`" not in names)
    weights = "".join(f" {', '.join(names)}: {kind}." for kind, names in sorted(drawn.items()))
    origins = sorted({row.texts for row in found if row.texts and "drawn" not in row.texts})
    texts = f" Texts: {'; '.join(origins)}{_samples(found) if detailed else ''}." if origins else ""
    versions = {part for row in found for part in row.versions.split(", ") if part and detailed}
    told = ", ".join(sorted(part for part in versions if not part.startswith("python")))
    parts = (device, told, _span(row.date for row in found))
    return f"{'; '.join(filter(None, parts))}.{texts}{weights}"


def _samples(found: Sequence[Row]) -> str:
    """How many a turn had, which are even in length where they are not all, and how many turns."""
    ours = [row for row in found if row.competitor == OURS and row.documents]
    if not ours:
        return ""
    fewer = dict.fromkeys(
        PEERS[row.competitor].title.partition(",")[0]
        for row in found
        if row.competitor in PEERS and PEERS[row.competitor].share < 1
    )
    part = f", and less for {', '.join(fewer)}, which pad to one length" if fewer else ""
    counts = _of_entries(ours, lambda row: f"{row.documents:,}")
    turns = _of_entries(ours, lambda row: str(row.turns))
    return f"; of these a turn has {counts}{part}. Timed turns: {turns}"


def _of_entries(found: Iterable[Row], value: Callable[[Row], str]) -> str:
    """Values, each with the entries that have it, the smallest entry first."""
    entries: dict[str, list[str]] = {}
    for row in sorted(found, key=_size):
        names = entries.setdefault(value(row), [])
        names += [f"`{row.entry}`"] * (f"`{row.entry}`" not in names)
    return ", ".join(f"{value} for {', '.join(names)}" for value, names in entries.items())


def _span(dates: Iterable[str]) -> str:
    days = sorted({date[:10] for date in dates if date})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    marks = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, marks, *lines)) + "\n"


def _entries(found: Iterable[Row]) -> list[str]:
    """Smallest first, what learns by itself last."""
    sizes = {row.entry: _size(row) for row in found}
    return sorted(sizes, key=lambda entry: (entry == CLASSIC, sizes[entry], entry))


def _size(row: Row) -> int:
    return row.parameters or 0


def render(document: str, results: Path) -> str:
    """A document with every block as the CSV files have it."""
    return _BLOCK.sub(lambda match: match[1] + block(match[2], results) + match[3], document)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 where one differs.")
@click.option("--results", default=rows.RESULTS, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--document",
    "documents",
    default=DOCUMENTS,
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
)
@click.option("--pictures/--no-pictures", default=True, help="Draw them too; needs matplotlib.")
def main(check: bool, results: Path, documents: Sequence[Path], pictures: bool) -> None:
    """Write the tables of both README.md, and the pictures, from the CSV files of the results."""
    for document in documents:
        text = document.read_text(encoding="utf-8")
        wanted = render(text, results)
        if not check:
            document.write_text(wanted, encoding="utf-8")
        elif wanted != text:
            raise click.ClickException(
                f"{document} is not what the CSV files say: python -m benchmarks.report"
            )
    if pictures and not check:
        from benchmarks import pictures as drawing

        for file in drawing.draw(results):
            click.echo(file)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.report")
