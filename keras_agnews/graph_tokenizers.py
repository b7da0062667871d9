"""The tokenizers as TensorFlow operations, for models that take strings inside a graph.

Each gives the ids of its counterpart in `tokenizers`, from what TensorFlow's regular expressions
(RE2) and tensorflow-text offer. tensorflow-text's own BERT tokenizers would be shorter, but their
compatibility decomposition is not BERT's rule; these differ from ours on characters newer than
their Unicode tables alone. Texts are UTF-8; bytes that are not become U+FFFD.
"""

from __future__ import annotations

import html
import html.entities
import re
from typing import Any

from keras_agnews.errors import InputError, require
from keras_agnews.tokenizers import (
    BARE_NAMES,
    IDEOGRAPHS,
    NEEDLESS,
    PARTING,
    TYPOGRAPHIC,
    Tokenizer,
    WordPieceTokenizer,
    WordTokenizer,
)


def graph_tokenizer(tokenizer: Tokenizer) -> Any:
    """A `tf.Module` whose `ids(texts)` is `tokenizer` in TensorFlow.

    `ids` takes `tf.string` `(n,)` and gives an int32 `tf.RaggedTensor` `(n, None)`: special tokens
    included, cut at `max_length`.

    Raises:
        MissingDependencyError: TensorFlow or, for word pieces, tensorflow-text is not installed.
    """
    if isinstance(tokenizer, WordPieceTokenizer):
        return _word_pieces(tokenizer)
    if isinstance(tokenizer, WordTokenizer):
        return _words(tokenizer)
    raise InputError(f"a {tokenizer.kind!r} tokenizer has no counterpart in TensorFlow")


def _replace(texts: Any, *rules: tuple[str, str | bytes]) -> Any:
    import tensorflow as tf

    for pattern, rewrite in rules:
        texts = tf.strings.regex_replace(texts, pattern, rewrite)
    return texts


# --- word pieces -----------------------------------------------------------------------------

_IDEOGRAPH = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in IDEOGRAPHS)
_ASCII_PUNCTUATION = r"!-/:-@\[-`{-~"
_SPACES = (r"[\t\n\r\p{Z}]", " ")
_CONTROLS = (r"[\p{Cc}\p{Cf}\x{fffd}]", "")
_APART = (f"([{_IDEOGRAPH}])", r" \1 ")
_MARKS = (r"\p{Mn}", "")
_PUNCTUATION = (rf"([\p{{P}}{_ASCII_PUNCTUATION}])", r" \1 ")


def _word_pieces(tokenizer: WordPieceTokenizer) -> Any:
    tf = require("tensorflow", "tensorflow", "to tokenize in a graph")
    text = require("tensorflow_text", "tensorflow", "to tokenize word pieces in a graph")
    index = tokenizer.vocabulary.index
    start, separator = index(tokenizer.start), index(tokenizer.separator)
    strips = tokenizer.lowercase if tokenizer.strip_accents is None else tokenizer.strip_accents
    clean = [_SPACES, _CONTROLS, *([_APART] if tokenizer.chinese_characters else [])]
    pieces = text.FastWordpieceTokenizer(
        list(tokenizer.vocabulary),
        unknown_token=tokenizer.unknown,
        no_pretokenization=True,
        max_bytes_per_word=4 * tokenizer.max_word_characters,  # which are counted below
    )
    most = tokenizer.max_length - tokenizer.special_tokens

    def ids(texts: Any) -> Any:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        texts = _replace(texts, *clean)
        if tokenizer.lowercase:
            # Bytes first: with characters the "I" of a Turkish locale is not ASCII's.
            texts = tf.strings.lower(tf.strings.lower(texts), encoding="utf-8")
        if strips:
            texts = _replace(text.normalize_utf8(texts, "NFD"), _MARKS)
        words = tf.strings.split(_replace(texts, _PUNCTUATION))
        # A word has at least one piece, so the rest of a long text need not be looked at.
        words = words[:, :most]
        # A line end is in no vocabulary, so it is unknown as a whole.
        long = (
            tf.strings.length(words.flat_values, unit="UTF8_CHAR") > tokenizer.max_word_characters
        )
        found = pieces.tokenize(tf.where(long, "\n", words.flat_values))
        rows = words.with_flat_values(tf.cast(found, tf.int32)).merge_dims(1, 2)[:, :most]
        ends = tf.ones([tf.shape(texts)[0], 1], tf.int32)
        return tf.concat([start * ends, rows, separator * ends], axis=1)

    module = tf.Module()
    module.ids = ids
    return module


# --- words -----------------------------------------------------------------------------------


def _words(tokenizer: WordTokenizer) -> Any:
    tf = require("tensorflow", "tensorflow", "to tokenize in a graph")
    if tokenizer.normalize not in (None, "news"):
        raise InputError(f"normalize={tokenizer.normalize!r} has no counterpart in TensorFlow")
    module = tf.Module()
    known = tokenizer.vocabulary[2:]  # no text has "" or "[UNK]" as a word
    module.table = _table([word.encode() for word in known], range(2, 2 + len(known)), 1)
    module.repair = _repair_news() if tokenizer.normalize else None

    def ids(texts: Any) -> Any:
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
        if module.repair:
            texts = module.repair.run(texts)
        # Bytes, so letter case and white space are ASCII's, as `WordTokenizer` has them.
        texts = _replace(tf.strings.lower(texts), (f"[{_ASCII_PUNCTUATION}]", ""))
        words = tf.strings.split(texts)[:, : tokenizer.max_length]
        return words.with_flat_values(module.table.lookup(words.flat_values))

    module.ids = ids
    return module


def _table(keys: Any, values: Any, default: Any) -> Any:
    tf = require("tensorflow", "tensorflow", "to tokenize in a graph")
    values = tf.constant(list(values), tf.int32 if isinstance(default, int) else tf.string)
    content = tf.lookup.KeyValueTensorInitializer(tf.constant(list(keys)), values)
    return tf.lookup.StaticHashTable(content, default)


# The rules of `tokenizers.repair_news` for RE2, which cannot look behind or ahead and whose \\s
# and \\w are ASCII's.
_WORD, _SPACE = r"\p{L}\p{N}_", r"\s\v\x1c-\x1f\x{85}\p{Z}"
_REFERENCE = (
    rf"(?:(##[0-9]{{1,7}})|#([0-9]{{1,7}})|(?:[& ]|([^{_WORD}& #]))(?:amp;)?(?:#([0-9]{{1,7}})"
    rf"|#[xX]([0-9a-fA-F]{{1,6}})|({BARE_NAMES}))|&([A-Za-z][A-Za-z0-9]{{1,31}}));"
)
_EDGE = b"\xff"  # in no text, since it is no UTF-8
# The mark before a reference, then, each up to an edge, its decimal, its hexadecimal, its name.
_PARTS = b"\\3" + _EDGE + b"\\2\\4" + _EDGE + b"\\5" + _EDGE + b"\\1\\6\\7" + _EDGE
_TYPOGRAPHIC_SPACES = "".join(chr(code) for code, to in TYPOGRAPHIC.items() if to)
_TYPOGRAPHIC_NOTHING = "".join(chr(code) for code, to in TYPOGRAPHIC.items() if not to)
_AFTER_REFERENCES = (
    (rf"</?[A-Za-z][A-Za-z0-9]*(?:[/{_SPACE}][^<>]*)?>|<[!?][^<>]*>", " "),
    (f"[{re.escape(PARTING)}{_TYPOGRAPHIC_SPACES}]", " "),
    (f"[{re.escape(NEEDLESS)}{_TYPOGRAPHIC_NOTHING}]", ""),
)
# Where HTML reads another number than is written: Windows's characters, and what is none.
_ODD_CODES = [
    *range(0x100),
    *range(0xFDD0, 0xFDF0),
    *(plane << 16 | last for plane in range(17) for last in (0xFFFE, 0xFFFF)),
]


def _repair_news() -> Any:
    """A `tf.Module` whose `run(texts)` is `repair_news`.

    But for the known prefix of an unknown name, and a reference without its ampersand within one.
    """
    tf = require("tensorflow", "tensorflow", "to tokenize in a graph")
    module = tf.Module()
    names = {name[:-1]: text for name, text in html.entities.html5.items() if name[-1] == ";"}
    module.names = _table(names, names.values(), _EDGE)
    odd = [html.unescape(f"&#{code};") for code in _ODD_CODES]
    module.odd = _table(_ODD_CODES, odd, _EDGE)

    def numbered(digits: Any, base: int) -> Any:
        padded = tf.strings.substr(tf.strings.join(["0000000", digits]), -7, 7)
        values = tf.cast(
            tf.io.decode_raw(tf.strings.lower(padded), tf.uint8, fixed_length=7), tf.int32
        )
        values = tf.where(values >= ord("a"), values - ord("a") + 10, values - ord("0"))
        codes = tf.reduce_sum(values * [base**power for power in range(6, -1, -1)], axis=1)
        odd = module.odd.lookup(codes)
        plain = tf.strings.unicode_encode(codes[:, None], "UTF-8", errors="replace")
        found = tf.where(odd == _EDGE, plain, odd)
        return tf.where(digits == b"", b"", found)

    def named(name: Any) -> Any:
        found = module.names.lookup(name)
        unknown = tf.where(name == b"", b"", tf.strings.join([name, ";"]))
        return tf.where(found == _EDGE, unknown, found)

    def run(texts: Any) -> Any:
        texts = tf.strings.join([" ", texts])
        parts = tf.strings.split(_replace(texts, (_REFERENCE, _PARTS)), _EDGE)
        flat = parts.flat_values
        # Within a text: plain text, decimal, hexadecimal, name, plain text, and so on.
        place = tf.range(tf.size(flat), dtype=tf.int64)
        place = (place - tf.gather(parts.row_splits, parts.value_rowids())) % 4
        for kind, read in enumerate(
            (lambda x: numbered(x, 10), lambda x: numbered(x, 16), named), start=1
        ):
            here = tf.where(place == kind)
            flat = tf.tensor_scatter_nd_update(flat, here, read(tf.gather_nd(flat, here)))
        joined = tf.strings.reduce_join(parts.with_flat_values(flat), axis=-1)
        return _replace(joined, *_AFTER_REFERENCES)

    module.run = run
    return module
