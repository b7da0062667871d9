"""What the tables and the pictures call a row, and the order in which a reader meets them."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks import cells
from benchmarks.cells import OURS
from benchmarks.peers import PEERS
from benchmarks.rows import Row

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def competitor(row: Row) -> str:
    """What a reader calls it."""
    where = BACKENDS.get(row.backend, row.backend)
    if row.competitor == OURS:
        return f"keras_agnews, {where}" + (
            "" if row.precision == "float32" else f", {row.precision}"
        )
    peer = PEERS[row.competitor]
    title = peer.title if peer.backends else f"{peer.title}, {where}"
    plain = row.precision in ("float32", *peer.precisions.values()) and len(peer.precisions) == 1
    return title if plain or row.precision == "float32" else f"{title}, {row.precision}"


def family(row: Row) -> str:
    """What a reader calls it and its like, where only the fastest of them is of interest."""
    if row.competitor == OURS:
        return "keras_agnews"
    return PEERS[row.competitor].family or PEERS[row.competitor].title


def families(found: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """The fastest row of each family, precision and entry, ours first; of strings to labels."""
    names = [OURS, *PEERS]
    order = sorted(
        (row for row in found if row.work == "strings"),
        key=lambda row: (names.index(row.competitor), row.precision != "float32", row.precision),
    )
    fastest: dict[str, dict[str, Row]] = {}
    for row in order:
        name = family(row) if row.precision == "float32" else f"{family(row)}, {row.precision}"
        of_entry = fastest.setdefault(name, {})
        other = of_entry.get(row.entry)
        if other is None or (row.docs_per_second or 0) > (other.docs_per_second or 0):
            of_entry[row.entry] = row
    return fastest


def by_device(found: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each device, processors first."""
    devices: dict[str, list[Row]] = {}
    for row in sorted(found, key=lambda row: row.device):
        devices.setdefault(row.device, []).append(row)
    return devices


def competitor_order(row: Row) -> tuple[int, int, str]:
    """Ours first, then the peers as their table has them."""
    names = [OURS, *PEERS]
    backends = list(cells.BACKENDS)
    place = backends.index(row.backend) if row.backend in backends else len(backends)
    return names.index(row.competitor), place, row.precision
