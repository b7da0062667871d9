"""The pictures in `results/`, from the CSV files beside them; `report` calls this."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cells, report, rows
from benchmarks.cells import CLASSIC, OURS
from benchmarks.peers import PEERS
from benchmarks.rows import Row
from keras_agnews import errors

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY = "#8a8a8a"
# By family: its colour and its marker, either of which suffices to know it.
FAMILIES: dict[str, tuple[str, str, str]] = {
    OURS: ("keras_agnews", BLUE, "o"),
    "transformers": ("transformers", ORANGE, "s"),
    "keras-hub": ("KerasHub", GREEN, "^"),
    "tfhub": ("TF-Hub", PURPLE, "v"),
    "onnx": ("ONNX Runtime", RED, "D"),
    "padded": ("padded Keras", SKY, "P"),
    "tfidf": ("TF-IDF, SVM", BLACK, "X"),
    "fasttext": ("fastText", GREY, "*"),
}
LABELS = {
    "transformers": "eager",
    "transformers-compile": "torch.compile",
    "transformers-pipeline": "pipeline",
    "keras-hub-128": "length 128",
    "keras-hub-512": "length 512",
    "tfhub": "SavedModels",
    "onnx": "unsorted",
    "onnx-sorted": "sorted",
    "onnx-int8": "int8, sorted",
    "tfidf-svm": "TF-IDF, SVM",
    "fasttext": "fastText",
}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}


def draw(results: Path) -> list[Path]:
    """Draw what there are rows for; returns the files."""
    matplotlib = errors.require("matplotlib", "bench", "to draw the pictures")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    files = []
    with plt.rc_context(STYLE):
        for device, found in report.by_device(rows.read(results)).items():
            slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
            for name, picture in _PICTURES.items():
                figure = picture(plt, device, found, results)
                if figure is not None:
                    files.append(results / f"{slug}_{name}.png")
                    # Nothing of the machine in it, so that the same rows are the same file.
                    figure.savefig(files[-1], metadata={"Software": None})
                    plt.close(figure)
    return files


def _family(name: str) -> tuple[str, str, str]:
    return next(value for key, value in FAMILIES.items() if name.startswith(key))


def _label(row: Row) -> str:
    if row.competitor == OURS:
        name = report.BACKENDS[row.backend]
        return name if row.precision == "float32" else f"{name}, {row.precision}"
    if row.competitor == "padded":
        return f"padded, {report.BACKENDS[row.backend]}"
    return LABELS.get(row.competitor, row.competitor)


def accuracies(results: Path) -> dict[str, float]:
    """From an entry or a classic peer to its accuracy on the test split."""
    file = results / rows.ACCURACY_FILE
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        return {row["model"]: float(row["accuracy"]) for row in csv.DictReader(stream)}


def accuracy_throughput(plt: Any, device: str, found: Sequence[Row], results: Path) -> Any:
    """A point for each entry and competitor, and the frontier of what nothing beats in both."""
    known = accuracies(results)
    points = []
    for row in found:
        if row.work != "strings" or row.docs_per_second is None:
            continue
        model = row.competitor if row.entry == CLASSIC else row.entry
        accuracy = known.get(model)
        if row.precision != "float32" and row.documents == 7_600 and row.accuracy:
            accuracy = row.accuracy  # what the precision costs
        if accuracy is not None:
            points.append((row.docs_per_second, 100 * accuracy, row))
    if not points:
        return None
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    axes.set_xscale("log")
    for x, y, row in points:
        _, colour, marker = _family(row.competitor)
        size = 60 if marker == "*" else 34
        axes.scatter(x, y, s=size, c=colour, marker=marker, zorder=3, lw=0.5, edgecolors="white")
    frontier, height = [], -np.inf
    for x, y, _ in sorted(points, key=lambda point: (-point[0], -point[1])):
        if y > height:
            frontier.append((x, y))
            height = y
    if len(frontier) > 1:
        xs, ys = zip(*frontier, strict=True)
        axes.step(xs, ys, where="post", color=GREY, lw=1, ls="--", zorder=1, label="frontier")
    low, high = (function(y for _, y, _ in points) for function in (min, max))
    margin = max(0.25, 0.18 * (high - low))
    axes.set_ylim(low - margin, high + margin)
    left, right = (function(x for x, _, _ in points) for function in (min, max))
    axes.set_xlim(left / 1.8, right * 2.2)
    axes.set_xlabel("documents a second, strings to labels (log scale)")
    axes.set_ylabel("accuracy on AG News test, %")
    axes.set_title(device, fontsize=9, loc="left", color="#444444")
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    _legend(plt, axes, [row.competitor for _, _, row in points], frontier=len(frontier) > 1)
    figure.canvas.draw()
    labels = [(x, y, _label(row), _family(row.competitor)[1]) for x, y, row in points]
    _place_labels(figure, axes, labels, _row_names(axes, points))
    return figure


def _row_names(axes: Any, points: Sequence[tuple[float, float, Row]]) -> list[Any]:
    """The name of each entry at the left of its points."""
    texts = []
    for entry in dict.fromkeys(row.entry for _, _, row in points if row.entry != CLASSIC):
        mine = [(x, y) for x, y, row in points if row.entry == entry]
        x, y = min(mine)
        texts.append(
            axes.annotate(
                entry,
                (x, y),
                xytext=(-7, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8.5,
                fontweight="bold",
            )
        )
    return texts


def _place_labels(
    figure: Any, axes: Any, labels: Sequence[tuple[float, float, str, str]], taken: Sequence[Any]
) -> None:
    """Write each label near its point, where it covers neither a point nor another label."""
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72  # pixels a typographic point
    boxes = [text.get_window_extent(renderer).padded(1) for text in taken]
    marks = [axes.transData.transform((x, y)) for x, y, *_ in labels]
    inside = axes.get_window_extent(renderer)

    def cost(box: Any) -> int:
        hits = sum(box.padded(1.5).overlaps(other) for other in boxes)
        around = box.padded(4)
        hits += sum(around.contains(*mark) for mark in marks)
        within = inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1)
        return int(hits + (0 if within else 5))

    for (x, y, text, colour), (here, there) in zip(labels, marks, strict=True):
        note = axes.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=7.5,
            color=colour,
            ha="center",
            va="center",
        )
        size = note.get_window_extent(renderer)
        half = size.width / scale / 2
        ways = [
            (across * half, up)
            for step in range(1, 9)
            for up in (9 * step, -9 * step)
            for across in (0.0, 1.0, -1.0, 1.6, -1.6)
        ]
        ways += [(half + 7, 0.0), (-half - 7, 0.0)]
        placed = []
        for dx, dy in ways:
            left = here + dx * scale - size.width / 2
            bottom = there + dy * scale - size.height / 2
            box = type(size).from_bounds(left, bottom, size.width, size.height)
            placed.append((cost(box), abs(dx) + abs(dy), dx, dy, box))
        *_, dx, dy, box = min(placed, key=lambda way: way[:2])
        boxes.append(box)
        note.set_position((dx, dy))
        if abs(dy) > 12:
            axes.annotate(
                "",
                (x, y),
                xytext=(dx, dy - np.sign(dy) * 5),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": colour, "shrinkB": 3},
            )


def _legend(plt: Any, axes: Any, names: Sequence[str], frontier: bool) -> None:
    families = dict.fromkeys(_family(name) for name in [OURS, *PEERS] if name in names)
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, ls="", markersize=6, label=title)
        for title, colour, marker in families
    ]
    if frontier:
        handles.append(plt.Line2D([], [], color=GREY, ls="--", lw=1, label="frontier"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def throughput_by_batch(plt: Any, device: str, found: Sequence[Row], results: Path) -> Any:
    """Token ids to logits: a panel for each entry, a line for each backend and precision."""
    chosen = [
        row
        for row in found
        if row.work == "model" and row.length == cells.LENGTH and row.docs_per_second
    ]
    entries = sorted({(row.parameters or 0, row.entry) for row in chosen})
    if not entries or len({row.batch for row in chosen}) < 2:
        return None
    columns = min(3, len(entries))
    lines = -(-len(entries) // columns)
    size = (2.5 * columns + 0.6, 2.5 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=True)
    colours = {"jax": BLUE, "tensorflow": ORANGE, "torch": GREEN}
    markers = {"jax": "o", "tensorflow": "s", "torch": "^"}
    for axes, (_, entry) in zip(grid.flat, entries, strict=False):
        mine = [row for row in chosen if row.entry == entry]
        for backend, precision in sorted({(row.backend, row.precision) for row in mine}):
            line = sorted(
                (row for row in mine if (row.backend, row.precision) == (backend, precision)),
                key=lambda row: row.batch,
            )
            middle = np.array([row.docs_per_second for row in line])
            spread = np.array([[row.slowest for row in line], [row.fastest for row in line]])
            name = report.BACKENDS[backend]
            axes.errorbar(
                [row.batch for row in line],
                middle,
                yerr=np.abs(spread - middle),
                color=colours[backend],
                marker=markers[backend],
                markersize=4,
                lw=1.3,
                ls="-" if precision == "float32" else "--",
                capsize=2,
                label=name if precision == "float32" else f"{name}, {precision}",
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted({row.batch for row in chosen}))
        axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.yaxis.set_major_formatter(plt.FuncFormatter(lambda y, _: f"{y:,.3g}"))
        axes.yaxis.set_minor_formatter(plt.NullFormatter())
        axes.set_title(entry, fontsize=9, fontweight="bold", loc="left")
    for axes in grid.flat[len(entries) :]:
        axes.set_visible(False)
    grid[0, 0].legend(fontsize=8)
    figure.supxlabel(f"texts a batch, {cells.LENGTH} tokens each", fontsize=9)
    figure.supylabel("texts a second (log scale)", fontsize=9)
    figure.suptitle(device, fontsize=9, x=0.02, ha="left", color="#444444")
    figure.tight_layout()
    return figure


def padding_waste(plt: Any, device: str, found: Sequence[Row], results: Path) -> Any:
    """What share of the computed positions holds no token: a bar for each competitor."""
    chosen = [row for row in found if row.work == "strings" and row.padding is not None]
    if not chosen:
        return None
    count = {entry: sum(row.entry == entry for row in chosen) for _, entry in _sized(chosen)}
    entry = max(count, key=lambda name: count[name])
    of_label: dict[str, Row] = {}
    for row in chosen:
        if row.entry == entry and row.precision == "float32":
            of_label[f"{_family(row.competitor)[0]}, {_label(row)}"] = row
    bars = sorted(of_label.items(), key=lambda item: item[1].padding or 0)
    figure, axes = plt.subplots(figsize=(5.6, 0.3 * len(bars) + 0.9))
    for i, (_, row) in enumerate(bars):
        share = 100 * (row.padding or 0)
        axes.barh(i, share, color=_family(row.competitor)[1], height=0.62)
        axes.text(share + 1, i, f"{share:.1f} %", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 108)
    axes.set_xlabel("computed positions that are padding, %")
    axes.set_title(f"{entry}, AG News test", fontsize=9, fontweight="bold", loc="left")
    return figure


def _sized(found: Sequence[Row]) -> list[tuple[int, str]]:
    return sorted({(row.parameters or 0, row.entry) for row in found})


_PICTURES = {
    "accuracy-throughput": accuracy_throughput,
    "throughput-by-batch": throughput_by_batch,
    "padding": padding_waste,
}
