"""What there is to measure: a cell is one competitor at one piece of work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.texts import TEXTS
from keras_agnews import bundle, registry
from keras_agnews.configs import TransformerConfig

OURS = "keras_agnews"
CLASSIC = "classic"  # stands for an entry where a peer learns from the train split by itself
BACKENDS = ("tensorflow", "jax", "torch")
WORKS = ("strings", "model", "start", "training")
PRECISIONS = ("float32", "bfloat16", "int8")
QUICK_ENTRIES = ("tiny-transformer", "small-bert-L4")

BATCHES, LENGTH = (1, 32, 256), 128
TRAINING_BATCH, TRAINING_TEXTS = 32, 1_600
# On a processor, a batch of 256 of a model with more parameters takes a minute.
LARGE = 50_000_000
# Of more parameters, two that learn do not fit beside each other in 24 GB.
LARGEST = 200_000_000
# Of a strings-to-labels pass on a processor, so that it takes seconds with every entry.
FLOPS_PER_PASS = 1.2e12
MEAN_TOKENS = 53  # word pieces of an AG News text
# NOTES.md says how much more is padding with fewer texts.
LEAST_TEXTS = {"strings": 256, "training": 64}
QUICK_TEXTS = 512


@dataclass(frozen=True)
class Cell:
    """One competitor at one piece of work.

    Attributes:
        work: "strings" (texts in, probabilities out), "model" (token ids in, logits out), "start"
            (a fresh process to its first answer) or "training" (a full fine-tuning step).
        entry: of the zoo; or "classic".
        competitor: "keras_agnews", or one of `peers.PEERS`.
        backend: what it computes with.
        batch: texts a batch, 0 where the competitor chooses.
        length: tokens of each, 0 where the texts decide.
        precision: "float32", "bfloat16" or "int8".
    """

    work: str
    entry: str
    competitor: str
    backend: str
    batch: int = 0
    length: int = 0
    precision: str = "float32"

    @property
    def name(self) -> str:
        """All of it in one word, fit for a file's name."""
        return "_".join(str(value) for value in dataclasses.astuple(self) if value)


def all_cells(
    entries: Sequence[str],
    *,
    backends: Sequence[str] = BACKENDS,
    peers: Sequence[str] = tuple(PEERS),
    works: Sequence[str] = WORKS,
    precisions: Sequence[str] = ("float32",),
    quick: bool = False,
    gpu: bool = False,
) -> list[Cell]:
    """Every cell there is, work by work."""
    found = []
    for work in works:
        for entry in entries:
            wanted = _Wanted(
                entry=entry,
                description=describe(entry),
                backends=backends,
                peers=peers,
                precisions=precisions,
                quick=quick,
                gpu=gpu,
            )
            found += list(_CELLS[work](wanted))
        if work == "strings":
            found += _peer_cells(work, CLASSIC, {CLASSIC}, backends, peers, ("float32",))
    if gpu:
        return found
    # Of the libraries, PyTorch's alone uses a processor's instructions for bfloat16 (NOTES.md).
    return [cell for cell in found if cell.precision != "bfloat16" or cell.backend == "torch"]


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that take turns, since their rates are to be compared; the others one by one."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        together = cell.work != "model" and not _fills_memory(cell)
        found.setdefault((cell.work, cell.entry) if together else cell, []).append(cell)
    return list(found.values())


def _fills_memory(cell: Cell) -> bool:
    return cell.work == "training" and describe(cell.entry).parameters > LARGEST


def describe(entry: str) -> bundle.Bundle:
    """What the entry's config.json says; no weights are needed."""
    directory = registry.find(entry)
    if directory is None:
        raise LookupError(f"{entry!r} is no entry of the zoo: {', '.join(registry.list_models())}")
    return bundle.read(directory)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Of which an entry's cells are made: what `all_cells` was given, and the entry."""

    entry: str
    description: bundle.Bundle
    backends: Sequence[str]
    peers: Sequence[str]
    precisions: Sequence[str]
    quick: bool
    gpu: bool

    def of_peers(self, work: str) -> list[Cell]:
        config, kinds = self.description.config, {self.description.builder}
        if kinds == {"bert"} and config.pooler and config.pooling == "first":
            kinds.add("pooled bert")
        return _peer_cells(work, self.entry, kinds, self.backends, self.peers, self.precisions)


def _strings(wanted: _Wanted) -> Iterable[Cell]:
    for backend in wanted.backends:
        for precision in wanted.precisions:
            yield Cell("strings", wanted.entry, OURS, backend, precision=precision)
    yield from wanted.of_peers("strings")


def _model(wanted: _Wanted) -> Iterable[Cell]:
    lengths = sorted({LENGTH, wanted.description.max_length})
    small = wanted.gpu or wanted.description.parameters < LARGE
    batches = BATCHES if small else BATCHES[:2]
    for backend in wanted.backends:
        for precision in wanted.precisions:
            for length in lengths[:1] if wanted.quick else lengths:
                for batch in BATCHES[1:2] if wanted.quick else batches:
                    yield Cell("model", wanted.entry, OURS, backend, batch, length, precision)


def _start(wanted: _Wanted) -> Iterable[Cell]:
    return (Cell("start", wanted.entry, OURS, backend) for backend in wanted.backends)


def _training(wanted: _Wanted) -> Iterable[Cell]:
    for backend in wanted.backends:
        for precision in wanted.precisions:
            if precision != "int8":
                yield Cell("training", wanted.entry, OURS, backend, TRAINING_BATCH, 0, precision)
    for cell in wanted.of_peers("training"):
        yield dataclasses.replace(cell, batch=TRAINING_BATCH)


def _peer_cells(
    work: str,
    entry: str,
    kinds: Set[str],
    backends: Sequence[str],
    names: Sequence[str],
    precisions: Sequence[str],
) -> list[Cell]:
    return [
        Cell(work, entry, name, backend, precision=peer.precisions[precision])
        for name in names
        if (peer := PEERS[name]).work == work and kinds.intersection(peer.kinds)
        for backend in (peer.backends or backends)
        for precision in precisions
        if precision in peer.precisions
    ]


_CELLS = {"strings": _strings, "model": _model, "start": _start, "training": _training}


def text_count(cell: Cell, quick: bool, gpu: bool) -> int:
    """How many texts a pass of a cell has; what is compared is the rate."""
    if cell.work not in ("strings", "training"):
        return 0
    peer = PEERS.get(cell.competitor)
    count = TEXTS if cell.work == "strings" else TRAINING_TEXTS
    if cell.entry != CLASSIC and not gpu:
        work = flops(describe(cell.entry).config, MEAN_TOKENS)
        work *= 1 if cell.work == "strings" else 3  # back again costs twice as much
        count = min(count, max(LEAST_TEXTS[cell.work], int(FLOPS_PER_PASS / work)))
    if quick:
        count = min(count, QUICK_TEXTS)
    if peer is not None and not gpu:
        count = int(count * peer.share)
    return max(32, count - count % 32) if count < TEXTS else count


def flops(config: Any, length: int, texts: int = 1) -> int:
    """Floating-point operations of a forward pass over `texts` texts of `length` tokens.

    Two a multiply-add, of the matrix products alone, as PaLM's MFU counts them (Chowdhery et al.
    2022, arXiv:2204.02311, appendix B): with hidden size H, heads of A columns together,
    feed-forward size F and n tokens, a layer has `2 n (4 H A + 2 H F)` in its projections and
    `4 n n A` in its attention. It is the work that the answer needs, not what somebody does: where
    the first token alone is classified, the last layer has queries, output and feed-forward of
    that one. Of another architecture, each matrix but the embeddings is counted once a token.
    """
    if not isinstance(config, TransformerConfig):
        matrices = (
            math.prod(shape)
            for name, shape in config.variables(1).items()
            if len(shape) > 1 and "embedding" not in name
        )
        return 2 * texts * length * sum(matrices)
    hidden, attention = config.hidden_size, config.heads * config.head_width
    of_keys = 2 * hidden * attention  # and of values
    of_queries = of_keys + 2 * hidden * config.feed_forward_size

    def layer(queries: int) -> int:
        products = length * of_keys + queries * of_queries
        return 2 * products + 4 * queries * length * attention

    last = layer(1 if config.pooling == "first" else length)
    head = 2 * hidden * (hidden * config.pooler + config.head_size)
    return texts * ((config.layers - 1) * layer(length) + last + head)
