"""The pictures in `results/`, from the CSV files beside them; `report` calls this."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cells, naming, rows
from benchmarks.cells import CLASSIC, OURS
from benchmarks.peers import PEERS
from benchmarks.rows import Row
from benchmarks.texts import TEXTS
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
BACKEND_MARKERS = {"jax": "o", "tensorflow": "s", "torch": "^"}
# Of each family a colour and a marker, so that either suffices.
LOOKS: dict[str, tuple[str, str]] = {
    "keras_agnews": (BLUE, "o"),
    "transformers, model called in a loop": (ORANGE, "s"),
    "transformers, pipeline": (ORANGE, "v"),
    "KerasHub": (GREEN, "^"),
    "TF-Hub SavedModels": (PURPLE, "D"),
    "ONNX Runtime": (RED, "X"),
    "ONNX Runtime, our export": (RED, "d"),
    "padded, Keras's predict": (SKY, "P"),
    "TF-IDF bigrams, linear SVM": (BLACK, "X"),
    "fastText, bigrams": (GREY, "*"),
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
        for device, found in naming.by_device(rows.read(results)).items():
            slug = rows.slug(device)
            for name, picture in _PICTURES.items():
                figure = picture(plt, device, found, results)
                if figure is not None:
                    files.append(results / f"{slug}_{name}.png")
                    # Nothing of the machine in it, so that the same rows are the same file.
                    figure.savefig(files[-1], metadata={"Software": None})
                    plt.close(figure)
    return files


def _look(row: Row) -> dict[str, Any]:
    """Colour, marker and size of a competitor's family; bfloat16 is hollow, int8 pale."""
    from matplotlib.colors import to_rgb

    colour, marker = LOOKS[naming.family(row)]
    pale = {"bfloat16": 1.0, "int8": 0.65}.get(row.precision, 0.0)  # how near to white
    inside = tuple(1 - (1 - pale) * (1 - part) for part in to_rgb(colour))
    size = 10.0 if marker == "*" else 7.0  # a star needs more to look as large
    edge = colour if pale else "white"
    return {"color": colour, "marker": marker, "mfc": inside, "mec": edge, "ms": size}


def accuracy_throughput(plt: Any, device: str, found: Sequence[Row], results: Path) -> Any:
    """A point for the fastest of each family, and the frontier of what nothing beats in both."""
    known = {
        row["model"]: float(row["accuracy"])
        for row in rows.read_accuracies(results)
        if row["accuracy"]
    }
    whole = {
        (row.entry, row.commit): row.accuracy
        for row in found
        if row.competitor == OURS and row.precision == "float32" and row.documents == TEXTS
    }
    points, legend = [], {}
    families = naming.families(found).items()
    for name, row in ((name, row) for name, of_entry in families for row in of_entry.values()):
        if row.docs_per_second is None:
            continue
        model = row.competitor if row.entry == CLASSIC else row.entry
        accuracy = known.get(model)
        # Less precision has its cost, which a part of the texts does not tell, and which is that of
        # the run: the entry's weights may be others by now.
        if row.precision != "float32" and accuracy is not None:
            before = whole.get((row.entry, row.commit))
            if row.documents != TEXTS or row.accuracy is None or before is None:
                continue
            accuracy += row.accuracy - before
        if accuracy is not None:
            points.append((row.docs_per_second, 100 * accuracy, row))
            legend[name] = _look(row)
    if not points:
        return None
    figure, axes = plt.subplots(figsize=(6.4, 4.6))
    axes.set_xscale("log")
    for entry in {row.entry for *_, row in points} - {CLASSIC}:
        mine = [(x, y) for x, y, row in points if row.entry == entry and row.precision == "float32"]
        if mine:
            xs, ys = zip(*sorted(mine), strict=True)
            axes.plot(xs, ys, color="#c8c8c8", lw=3, solid_capstyle="round", zorder=1)
    for x, y, row in sorted(points, key=lambda point: point[2].competitor == OURS):
        axes.plot(x, y, ls="", mew=0.7, zorder=3, **_look(row))
    frontier, height = [], -np.inf
    for x, y, _ in sorted(points, key=lambda point: (-point[0], -point[1])):
        if y > height:
            frontier.append((x, y))
            height = y
    # A point's accuracy is to be had at every lower speed, up to the next point's.
    corners = frontier[:1]
    for (_, before), (x, y) in itertools.pairwise(frontier):
        corners += [(x, before), (x, y)]
    if len(frontier) > 1:
        axes.plot(*zip(*corners, strict=True), color="#444444", lw=1, ls="--", zorder=2)
    low, high = (function(y for _, y, _ in points) for function in (min, max))
    margin = max(0.25, 0.12 * (high - low))
    axes.set_ylim(low - margin, high + margin)
    left, right = (function(x for x, _, _ in points) for function in (min, max))
    axes.set_xlim(left / 16, right * 4)  # on both sides, room for names
    axes.set_xlabel("documents a second, strings to labels (log scale)")
    axes.set_ylabel("accuracy on AG News test, %")
    axes.set_title(device, fontsize=9, loc="left", color="#444444")
    axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    handles = [
        plt.Line2D([], [], ls="", mew=0.7, label=name, **look) for name, look in legend.items()
    ]
    if len(frontier) > 1:
        handles.append(plt.Line2D([], [], color="#444444", ls="--", lw=1, label="frontier"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=7.5)
    figure.canvas.draw()
    _name_entries(figure, axes, points, corners)
    return figure


def _name_entries(
    figure: Any,
    axes: Any,
    points: Sequence[tuple[float, float, Row]],
    line: Sequence[tuple[float, float]],
) -> None:
    """Each name beside its first point, where it covers no point, no other name and no `line`."""
    from matplotlib.path import Path as Polyline

    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    marks = [axes.transData.transform((x, y)) for x, y, _ in points]
    drawn = Polyline(line).transformed(axes.transData)
    firsts: dict[str, tuple[float, float]] = {}
    for x, y, row in sorted(points, key=lambda point: (point[2].precision != "float32", point[0])):
        firsts.setdefault(row.entry if row.entry != CLASSIC else row.competitor, (x, y))
    boxes: list[Any] = []
    for name, (x, y) in firsts.items():
        text = PEERS[name].title.partition(",")[0] if name in PEERS else name
        weight = "normal" if name in PEERS else "bold"
        note = axes.annotate(
            text,
            (x, y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8.5,
            fontweight=weight,
            ha="center",
            va="center",
            zorder=4,
        )
        size = note.get_window_extent(renderer)
        half, mark = size.width / scale / 2, axes.transData.transform((x, y))
        ways = [(-half - 8, 0.0), (half + 8, 0.0)]
        ways += [(side, over) for side in (-half, half) for over in (11.0, -11.0)]
        placed = []
        for rank, (dx, dy) in enumerate(ways):
            left = mark[0] + dx * scale - size.width / 2
            bottom = mark[1] + dy * scale - size.height / 2
            box = type(size).from_bounds(left, bottom, size.width, size.height)
            hits = sum(box.padded(3).overlaps(other) for other in boxes)
            hits += sum(box.padded(4).contains(*other) for other in marks)
            hits += drawn.intersects_bbox(box, filled=False)
            placed.append((hits, rank, dx, dy, box))
        *_, dx, dy, box = min(placed, key=lambda way: way[:2])
        note.set_position((dx, dy))
        boxes.append(box)


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
    columns = {1: 1, 2: 2, 4: 2}.get(len(entries), 3)
    lines = -(-len(entries) // columns)
    size = (2.5 * columns + 0.6, 2.5 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    colours = {"jax": BLUE, "tensorflow": ORANGE, "torch": GREEN}
    for axes, (_, entry) in zip(grid.flat, entries, strict=False):
        mine = [row for row in chosen if row.entry == entry]
        for backend, precision in sorted({(row.backend, row.precision) for row in mine}):
            line = sorted(
                (row for row in mine if (row.backend, row.precision) == (backend, precision)),
                key=lambda row: row.batch,
            )
            middle = np.array([row.docs_per_second for row in line])
            spread = np.array([[row.slowest for row in line], [row.fastest for row in line]])
            name = naming.BACKENDS[backend]
            axes.errorbar(
                [row.batch for row in line],
                middle,
                yerr=np.abs(spread - middle),
                color=colours[backend],
                marker=BACKEND_MARKERS[backend],
                markersize=4,
                lw=1.3,
                ls="-" if precision == "float32" else "--",
                capsize=2,
                label=name if precision == "float32" else f"{name}, {precision}",
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(batches := sorted({row.batch for row in chosen}))
        axes.set_xlim(batches[0] / 1.4, batches[-1] * 1.4)
        axes.xaxis.set_major_formatter(plt.FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.yaxis.set_major_locator(plt.LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(plt.FuncFormatter(lambda y, _: f"{y:,g}"))
        axes.yaxis.set_minor_locator(plt.NullLocator())
        axes.set_title(entry, fontsize=9, fontweight="bold", loc="left")
    for axes in grid.flat[len(entries) :]:
        axes.set_visible(False)
    named: dict[str, Any] = {}  # of all panels: the first may lack a line
    for axes in grid.flat:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    grid[0, 0].legend(named.values(), named.keys(), fontsize=8)
    figure.supxlabel(f"texts a batch, {cells.LENGTH} tokens each", fontsize=9)
    figure.supylabel("texts a second (log scale)", fontsize=9)
    figure.suptitle(device, fontsize=9, x=0.02, ha="left", color="#444444")
    figure.tight_layout()
    return figure


def padding_waste(plt: Any, device: str, found: Sequence[Row], results: Path) -> Any:
    """What share of the computed positions holds no token: a bar for each competitor."""
    chosen = [
        row
        for row in found
        if row.work == "strings" and row.precision == "float32" and row.padding is not None
    ]
    if not chosen:
        return None
    count = {entry: sum(row.entry == entry for row in chosen) for _, entry in _sized(chosen)}
    entry = max(count, key=lambda name: count[name])
    of_label: dict[str, Row] = {}
    for row in chosen:
        if row.entry == entry:
            of_label[naming.competitor(row)] = row
    bars = sorted(of_label.items(), key=lambda item: item[1].padding or 0)
    figure, axes = plt.subplots(figsize=(5.6, 0.3 * len(bars) + 0.9))
    for i, (_, row) in enumerate(bars):
        share = 100 * (row.padding or 0)
        axes.barh(i, share, color=_look(row)["color"], height=0.62)
        axes.text(share + 1, i, f"{share:.1f} %", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 108)
    axes.set_xlabel("computed positions that are padding, %")
    axes.set_title(f"{entry}, {bars[0][1].texts}", fontsize=9, fontweight="bold", loc="left")
    return figure


def _sized(found: Sequence[Row]) -> list[tuple[int, str]]:
    return sorted({(row.parameters or 0, row.entry) for row in found})


_PICTURES = {
    "accuracy-throughput": accuracy_throughput,
    "throughput-by-batch": throughput_by_batch,
    "padding": padding_waste,
}
