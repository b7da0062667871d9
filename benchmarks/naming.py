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
