"""Texts to token ids, without Keras and without TensorFlow.

Two tokenizers share one interface. `WordTokenizer` gives the ids of
`keras.layers.TextVectorization`, `WordPieceTokenizer` those of BERT. Id 0 is padding in both.
`Tokenizer.batch` is the fast way in and pads nothing; calling a tokenizer gives padded arrays under
the names that Hugging Face uses. Threads may share a tokenizer: what it answers never changes.
"""

from __future__ import annotations

import codecs
import functools
import html
import json
import os
import re
import string
import unicodedata
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_agnews.errors import BundleError, InputError, listed
from keras_agnews.files import replacing
from keras_agnews.inputs import check_texts

UNKNOWN = "[UNK]"
LARGEST_VOCABULARY_FILE = 64 * 2**20  # bytes
LONGEST_TOKEN = 512  # characters
LONGEST_SEQUENCE = 1_000_000  # tokens

REMEMBERED = 2**17  # words, and code points, kept from text to text: hostile text adds no more

# Texts at a time: few enough that their words stay in the processor's cache.
_CHUNK = 256


@dataclass(frozen=True)
class TokenIds:
    """The ids of several texts, ragged.

    Attributes:
        values: int32 `(sum(lengths),)`, the ids of all texts one after another.
        lengths: int32 `(n,)`, tokens in each text.
        truncated: bool `(n,)`, whether the text was cut at the maximum length.
    """

    values: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """int64 `(n,)`, where in `values` each text begins."""
        return np.cumsum(self.lengths, dtype=np.int64) - self.lengths


class Tokenizer(ABC):
    """Texts to ids. Subclasses are `WordTokenizer` and `WordPieceTokenizer`.

    Attributes:
        kind: the name of the subclass in a bundle's config.
        vocabulary: the tokens; a token's index is its id, and id 0 is padding.
        max_length: tokens at which a text is cut, special tokens included.
    """

    kind: ClassVar[str]
    #: Constructor options besides `vocabulary` and `max_length`, with the types each may have.
    option_types: ClassVar[dict[str, tuple[type, ...]]]
    #: Tokens that every sequence holds whatever its text.
    special_tokens: ClassVar[int] = 0

    def __init__(self, vocabulary: Iterable[str], max_length: int, **options: Any) -> None:
        for name, value in options.items():
            allowed = self.option_types[name]
            if type(value) not in allowed:
                wanted = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
                raise InputError(f"tokenizer option {name}={value!r} must be {wanted}")
            setattr(self, name, value)
        if isinstance(vocabulary, str):
            raise InputError("vocabulary must be a list of tokens, not a string")
        self.vocabulary = tuple(vocabulary)
        if fault := _vocabulary_fault(self.vocabulary):
            raise InputError(f"vocabulary[{fault[0]}]: {fault[1]}")
        self.max_length = self._checked_length(max_length, None)

    @property
    def unknown_id(self) -> int:
        """The id of a word that the vocabulary does not have."""
        return self.vocabulary.index(getattr(self, "unknown", UNKNOWN))

    def batch(self, texts: Sequence[str], max_length: int | None = None) -> TokenIds:
        """The ids of `texts`, in order, special tokens included, unpadded.

        Args:
            texts: any strings, empty ones and lone surrogates included.
            max_length: tokens at which a text is cut; the tokenizer's own where `None`.

        Raises:
            InputError: `texts` is a single string, or holds something other than strings.
        """
        limit = self._checked_length(max_length, self.max_length)
        texts = _checked_texts(texts)
        chunks = [self._chunk(texts[i : i + _CHUNK], limit) for i in range(0, len(texts), _CHUNK)]
        if not chunks:
            return TokenIds(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))
        return TokenIds(
            np.concatenate([chunk.values for chunk in chunks]),
            np.concatenate([chunk.lengths for chunk in chunks]),
            np.concatenate([chunk.truncated for chunk in chunks]),
        )

    def encode(
        self, text: str, pair: str | None = None, max_length: int | None = None
    ) -> list[int]:
        """The ids of one text, or of a pair of texts in one sequence."""
        ids, _ = self._rows([text], None if pair is None else [pair], max_length)
        return ids[0]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id.

        Raises:
            InputError: an id is outside the vocabulary.
        """
        found = []
        for index, number in enumerate(ids):
            size = len(self.vocabulary)
            if not isinstance(number, int | np.integer) or not 0 <= number < size:
                raise InputError(f"ids[{index}] is {number!r}, no id in a vocabulary of {size}")
            found.append(self.vocabulary[number])
        return found

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        padding: bool | int = True,
    ) -> dict[str, Any]:
        """Ids, token types and mask of texts, or of pairs of texts.

        Args:
            texts: strings; a single string is a batch of one.
            pairs: the second text of each sequence, as many as `texts`.
            max_length: tokens at which a sequence is cut; the tokenizer's own where `None`.
            padding: `True` fills up to the longest sequence (to at least one column), a number to
                that many tokens; `False` fills nothing and gives lists.

        Returns:
            `input_ids`, `token_type_ids` (1 in the second text, else 0) and `attention_mask` (1 at
            a token, 0 at padding), each int32 `(n, length)`, or a list of n lists.
        """
        texts = _checked_texts([texts] if isinstance(texts, str) else texts)
        if pairs is not None:
            pairs = _checked_texts([pairs] if isinstance(pairs, str) else pairs)
            if len(pairs) != len(texts):
                raise InputError(f"{len(texts)} texts but {len(pairs)} pairs: give one for each")
        ids, types = self._rows(texts, pairs, max_length)
        lengths = np.array([len(row) for row in ids], np.int32)
        if padding is False:
            mask = [[1] * len(row) for row in ids]
            return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        longest = int(lengths.max(initial=0))
        width = max(1, longest) if padding is True else padding
        if not isinstance(width, int | np.integer) or width > LONGEST_SEQUENCE:
            raise InputError(f"padding={padding!r} must be true, false or a number of tokens")
        if width < longest:
            raise InputError(
                f"padding={width} is shorter than text {int(lengths.argmax())}, which has "
                f"{longest} tokens: pass max_length={width} as well"
            )
        present = np.arange(width) < lengths[:, None]
        return {
            "input_ids": _padded(ids, present),
            "token_type_ids": _padded(types, present),
            "attention_mask": present.astype(np.int32),
        }

    def options(self) -> dict[str, Any]:
        """What `tokenizer_from_config` needs beside kind, vocabulary and length; JSON-able."""
        return {name: getattr(self, name) for name in self.option_types}

    @abstractmethod
    def _chunk(self, texts: list[str], limit: int) -> TokenIds:
        """The ids of a few texts, cut at `limit` tokens."""

    def _rows(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int | None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Ids and token types of each sequence."""
        if pairs is not None:
            raise InputError(f"a {self.kind!r} tokenizer takes no pairs: join the texts yourself")
        batch = self.batch(texts, max_length)
        ids = [
            batch.values[start : start + length].tolist()
            for start, length in zip(batch.starts, batch.lengths, strict=True)
        ]
        return ids, [[0] * len(row) for row in ids]

    def _checked_length(self, max_length: int | None, default: int | None) -> int:
        if max_length is None:
            max_length = default
        least = self.special_tokens + 1
        if isinstance(max_length, bool) or not isinstance(max_length, int | np.integer):
            raise InputError(f"max_length={max_length!r} must be a whole number")
        if not least <= max_length <= LONGEST_SEQUENCE:
            raise InputError(f"max_length={max_length} must be from {least} to {LONGEST_SEQUENCE}")
        return int(max_length)


def _padded(rows: list[list[int]], present: np.ndarray) -> np.ndarray:
    """The rows as int32, each value where `present` has a true one, else 0."""
    matrix = np.zeros(present.shape, np.int32)
    matrix[present] = np.fromiter(chain.from_iterable(rows), np.int32, present.sum())
    return matrix


def _checked_texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError("texts must be a list of str, not str")
    return list(check_texts(texts))


def _vocabulary_fault(vocabulary: Sequence[str]) -> tuple[int, str] | None:
    """Index and description of the first token that no vocabulary may hold."""
    seen: dict[str, int] = {}
    for index, token in enumerate(vocabulary):
        if not isinstance(token, str):
            return index, f"must be a string, not {type(token).__name__}"
        if len(token) > LONGEST_TOKEN:
            return index, f"token of {len(token)} characters, more than {LONGEST_TOKEN}"
        if seen.setdefault(token, index) != index:
            return index, f"{token!r} is a duplicate of token {seen[token]}"
        if not token.isprintable() and (held := _UNWRITABLE.search(token)):
            remedy = "; write the file with \\n alone, as it came" * token.endswith("\r")
            return index, f"{token!r} holds {held[0]!r}, which no token may{remedy}"
    return None


# Line ends and NUL cannot be told from the file's own, surrogates have no UTF-8.
_UNWRITABLE = re.compile("[\0\r\n\ud800-\udfff]")


# --- words -----------------------------------------------------------------------------------


class WordTokenizer(Tokenizer):
    """Words by white space, lower-cased and stripped of punctuation.

    Gives the ids of `keras.layers.TextVectorization(vocabulary=...)` with its default
    standardization and splitting. As there, letter case, punctuation and white space are ASCII's:
    `"É"` is not lower-cased and a no-break space does not separate.

        >>> tokenizer = WordTokenizer(["", "[UNK]", "oil", "prices"])
        >>> tokenizer.encode("Oil prices: up!")
        [2, 3, 1]

    Args:
        vocabulary: `""` (padding), `"[UNK]"`, then words; `learn_words` makes one.
        max_length: words at which a text is cut.
        normalize: a name in `NORMALIZERS`, applied to the text first; `None` for none.
    """

    kind = "words"
    option_types: ClassVar = {"normalize": (str, type(None))}
    normalize: str | None

    def __init__(
        self, vocabulary: Iterable[str], *, max_length: int = 256, normalize: str | None = None
    ) -> None:
        super().__init__(vocabulary, max_length, normalize=normalize)
        if self.vocabulary[:2] != ("", UNKNOWN):
            raise InputError(
                f'the vocabulary of a word tokenizer must begin with "" (padding) and "{UNKNOWN}", '
                f"not {list(self.vocabulary[:2])}: learn_words makes one"
            )
        self._repair = _normalizer(normalize)
        # From 2 on: no text has "" or "[UNK]" as a word.
        self._ids = {token.encode(): i for i, token in enumerate(self.vocabulary) if i > 1}

    def _chunk(self, texts: list[str], limit: int) -> TokenIds:
        words = [_split_words(text, limit) for text in map(self._repair, texts)]
        lengths = np.fromiter(map(len, words), np.int32, len(words))
        truncated = lengths > limit
        for index in np.flatnonzero(truncated):
            words[index].pop()
        lengths -= truncated
        ids = map(self._ids.get, chain.from_iterable(words), repeat(1))
        return TokenIds(np.fromiter(ids, np.int32, int(lengths.sum())), lengths, truncated)


_LOWER = bytes(range(256)).lower()
_PUNCTUATION = string.punctuation.encode()


def _split_words(text: str, limit: int = -1) -> list[bytes]:
    """The words of a text; past `limit` of them, one more item that holds the rest."""
    # On bytes, translate and split know ASCII alone, as TensorFlow does, and run in C.
    return text.encode("utf-8", "surrogatepass").translate(_LOWER, _PUNCTUATION).split(None, limit)


def learn_words(
    texts: Iterable[str], size: int = 20_000, normalize: str | None = None
) -> tuple[str, ...]:
    """A vocabulary for `WordTokenizer`, most frequent words first.

    The order is that of `keras.layers.TextVectorization.adapt`: by count, and by the words' bytes
    from high to low where counts are equal. Words that no vocabulary file can hold are left out.

    Args:
        texts: strings; a generator will do.
        size: most tokens in the vocabulary, padding and unknown included.
        normalize: the same as the tokenizer's.
    """
    repair = _normalizer(normalize)
    counts: Counter[bytes] = Counter()
    for text in _checked_texts(texts):
        counts.update(_split_words(repair(text)))
    vocabulary = ["", UNKNOWN]
    for word, _ in sorted(counts.items(), key=lambda item: (item[1], item[0]), reverse=True):
        if len(vocabulary) >= size:
            break
        token = word.decode("utf-8", "surrogatepass")
        if len(token) <= LONGEST_TOKEN and not _UNWRITABLE.search(token):
            vocabulary.append(token)
    return tuple(vocabulary)


# --- repairs of text -------------------------------------------------------------------------

# Names common in feeds that are no word of a language, so safe to read without their ampersand.
BARE_NAMES = (
    "quot|amp|lt|gt|nbsp|apos|hellip|[lr][sd]quo|[mn]dash|eacute|egrave|aacute|iacute|oacute"
    "|uacute|ntilde|ccedil|[aou]uml|pound|euro|reg|bull|middot"
)
_REFERENCE = re.compile(
    # The ampersand may itself be escaped, or lost with a space in its place.
    r"(\W)(?:amp;)?"
    rf"((?<=#)[0-9]{{1,7}}|#[0-9]{{1,7}}|#[xX][0-9a-fA-F]{{1,6}}|{BARE_NAMES}|(?<=&)[A-Za-z]\w{{1,31}});"
)
# A name, then white space, a slash or the end: not a ticker such as <ACME.O>.
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?=[\s/>])[^<>]*>|<[!?][^<>]*>")
PARTING = "-/\\'<>;"
NEEDLESS = "&#"
TYPOGRAPHIC = str.maketrans(
    dict.fromkeys("\xa0\u2013\u2014\u2018\u2019\u2022\u2026", " ")
    | dict.fromkeys("\xad\u200b\u201c\u201d")
)


def _decode(match: re.Match[str]) -> str:
    mark, name = match.groups()
    kept = "" if mark in "& #" else mark
    return kept + _referenced(f"#{name}" if mark == "#" else name)


@functools.lru_cache(maxsize=1024)
def _referenced(name: str) -> str:
    return html.unescape(f"&{name};")


def repair_news(text: str) -> str:
    r"""Undo what feeds and scrapers did to a news text, for a tokenizer of words.

    - Character references are read, also such as lost their ampersand to a space, and Windows's:
      `"dinner for #36;5"` is `"dinner for$5"`, `"Fish  amp; Chips at caf&#233;s"` is
      `"Fish  Chips at cafés"`.
    - Tags are dropped, escaped or not: `"&lt;b&gt;Late news&lt;/b&gt;"` is `" Late news "`. What
      is no tag stays: `"Acme &lt;ACME.O&gt;"` is `"Acme  ACME.O "`.
    - Backslashes stand for line breaks: `"a long\line"` is `"a long line"`.
    - Hyphens, dashes, slashes and apostrophes part words, which stripping would glue together:
      `"the mayor #39;s debt-laden air/rail plan"` is `"the mayor s debt laden air rail plan"`.
    - What no word needs (`&`, `#`, `;`, typographic quotes, soft hyphens) goes, so that a second
      repair changes nothing.
    """
    if ";" in text:
        text = _REFERENCE.sub(_decode, f" {text}").removeprefix(" ")
    if "<" in text:
        text = _TAG.sub(" ", text)
    for mark in PARTING:
        text = text.replace(mark, " ")
    for mark in NEEDLESS:
        text = text.replace(mark, "")
    return text if text.isascii() else text.translate(TYPOGRAPHIC)


#: What `WordTokenizer(normalize=...)` can name: a function from text to text, idempotent.
NORMALIZERS: dict[str, Callable[[str], str]] = {"news": repair_news}


def _normalizer(name: str | None) -> Callable[[str], str]:
    if name is None:
        return str
    if name not in NORMALIZERS:
        raise InputError(f"unknown normalize {name!r}: one of {sorted(NORMALIZERS)} or null")
    return NORMALIZERS[name]


# --- word pieces -----------------------------------------------------------------------------

# The ideographs that BERT's rule takes for words of their own.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_ASCII_WORD = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ASCII_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class _Characters(dict[int, "str | int | None"]):
    """A table for `str.translate` that asks `rule` once for each code point it meets."""

    def __init__(self, rule: Callable[[str], str | None]) -> None:
        self.rule = rule

    def __missing__(self, code: int) -> str | None:
        result = self.rule(chr(code))
        if len(self) < REMEMBERED:
            self[code] = result
        return result


def _cleaned(character: str, chinese_characters: bool, strip_accents: bool) -> str | None:
    if character in "\t\n\r":
        return " "
    category = unicodedata.category(character)
    if category in ("Cc", "Cf") or character == "\ufffd":
        return None
    # NFD sorts a run of marks in quadratic time: those that will go anyway, go before it.
    if strip_accents and category == "Mn":
        return None
    if category == "Zs":
        return " "
    if chinese_characters and any(a <= ord(character) <= b for a, b in IDEOGRAPHS):
        return f" {character} "
    return character


def _parted(character: str, strip_accents: bool) -> str | None:
    category = unicodedata.category(character)
    if strip_accents and category == "Mn":
        return None
    # Of ASCII's symbols Unicode calls some, such as $ and ^, no punctuation; BERT calls all so.
    if category.startswith("P") or (
        character.isascii() and character >= "!" and not character.isalnum()
    ):
        return f" {character} "
    return character


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer.

    Splits a text into words and punctuation by the rule of BERT's original code, with the Unicode
    tables of this Python, and words into pieces by the `tokenizers` library; each distinct word
    only once while it is remembered, which makes it on one core about twice as fast as that
    library's own splitting. A special token's name in a text is plain text.

    Source: https://github.com/google-research/bert/blob/master/tokenization.py

        >>> tokenizer = WordPieceTokenizer(read_vocabulary("vocab.txt"))    # BERT's own, uncased
        >>> tokenizer.encode("I love transformers")
        [101, 1045, 2293, 19081, 102]

    Args:
        vocabulary: pieces; those inside a word begin with `##`.
        max_length: tokens at which a sequence is cut, its special tokens included.
        lowercase: whether to lower-case.
        strip_accents: whether to decompose (NFD) and drop combining marks; `None` is as
            `lowercase`.
        chinese_characters: whether each ideograph is a word.
        max_word_characters: a longer word is unknown. BERT's original has 200 here, published
            checkpoints, TF-Hub and Hugging Face 100.
        unknown, start, separator, padding: the special tokens. The vocabulary must hold all, and
            `padding` first.
    """

    kind = "wordpiece"
    option_types: ClassVar = {
        "lowercase": (bool,),
        "strip_accents": (bool, type(None)),
        "chinese_characters": (bool,),
        "max_word_characters": (int,),
        "unknown": (str,),
        "start": (str,),
        "separator": (str,),
        "padding": (str,),
    }
    special_tokens = 2
    lowercase: bool
    strip_accents: bool | None
    chinese_characters: bool
    max_word_characters: int
    unknown: str
    start: str
    separator: str
    padding: str

    def __init__(
        self,
        vocabulary: Iterable[str],
        *,
        max_length: int = 128,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        chinese_characters: bool = True,
        max_word_characters: int = 100,
        unknown: str = UNKNOWN,
        start: str = "[CLS]",
        separator: str = "[SEP]",
        padding: str = "[PAD]",
    ) -> None:
        super().__init__(
            vocabulary,
            max_length,
            lowercase=lowercase,
            strip_accents=strip_accents,
            chinese_characters=chinese_characters,
            max_word_characters=max_word_characters,
            unknown=unknown,
            start=start,
            separator=separator,
            padding=padding,
        )
        if not 1 <= max_word_characters <= LONGEST_TOKEN:
            raise InputError(
                f"tokenizer option max_word_characters={max_word_characters} must be from 1 to "
                f"{LONGEST_TOKEN}"
            )
        ids = {token: index for index, token in enumerate(self.vocabulary)}
        for option in ("unknown", "start", "separator", "padding"):
            if getattr(self, option) not in ids:
                raise InputError(
                    f"the vocabulary lacks the {option} token {getattr(self, option)!r}: if it is "
                    f"called otherwise there, pass {option}="
                )
        if ids[padding] != 0:
            raise InputError(f"the padding token {padding!r} has id {ids[padding]}, must have 0")

        import tokenizers

        self._model = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(
                vocab=ids, unk_token=unknown, max_input_chars_per_word=max_word_characters
            )
        )
        self._unknown, self._start, self._separator = ids[unknown], ids[start], ids[separator]
        self._strips = lowercase if strip_accents is None else strip_accents
        self._clean = _Characters(
            functools.partial(
                _cleaned, chinese_characters=chinese_characters, strip_accents=self._strips
            )
        )
        self._part = _Characters(functools.partial(_parted, strip_accents=self._strips))
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def from_hugging_face(
        cls,
        directory: str | os.PathLike[str],
        vocabulary_size: int | None = None,
        max_length: int = 128,
    ) -> WordPieceTokenizer:
        """The tokenizer of a BERT or DistilBERT checkpoint's directory.

        Reads `vocab.txt`, or the vocabulary in `tokenizer.json` where that is missing, and each
        setting from `tokenizer_config.json`, else from `tokenizer.json`, else BERT's default.

        Args:
            directory: a local directory.
            vocabulary_size: rows of the checkpoint's embedding, which the vocabulary must equal.
            max_length: tokens at which a sequence is cut.

        Raises:
            BundleError: a file is missing or broken, the tokenizer is not BERT's, or the
                vocabulary is of another length.
        """
        folder = Path(directory)
        config = _read_json(folder / "tokenizer_config.json")
        whole = _read_json(folder / "tokenizer.json")
        for (section, key), wanted in _BERT_SETTINGS.items():
            if section in whole and (found := _section(whole, section).get(key)) != wanted:
                raise BundleError(
                    f"{folder / 'tokenizer.json'}: {section}.{key} is {found!r}, where BERT has "
                    f"{wanted!r}; this tokenizer cannot be read"
                )
        # Where the checkpoint's own config has it, transformers takes it from there.
        name = config.get("tokenizer_class") or _read_json(folder / "config.json").get(
            "tokenizer_class"
        )
        if name not in _BERT_CLASSES and not (whole and name in _ANY_CLASSES):
            raise BundleError(
                f"{folder / 'tokenizer_config.json'}: tokenizer_class {name!r} is not BERT's"
            )
        for key, wanted in _BERT_OPTIONS.items():
            if (value := config.get(key, wanted)) != wanted:
                raise BundleError(
                    f"{folder / 'tokenizer_config.json'}: {key} is {value!r}, and here it is "
                    f"{wanted!r}; this tokenizer cannot be read"
                )
        others = _read_json(folder / "special_tokens_map.json")
        options: dict[str, Any] = {}
        for option, (config_key, section, key) in CHECKPOINT_OPTIONS.items():
            places = [(config, config_key), (_section(whole, section), key)]
            if name in _ANY_CLASSES:
                places.reverse()
            places.append((others, config_key))
            found = [place[at] for place, at in places if at in place]
            if not found:
                continue
            options[option] = _content(found[0])
        vocabulary = _vocabulary_of_model(folder / "tokenizer.json", whole)
        if vocabulary is None or (folder / "vocab.txt").exists():
            beside = vocabulary
            vocabulary = read_vocabulary(folder / "vocab.txt")
            if beside not in (None, vocabulary):
                raise BundleError(f"{folder}: vocab.txt and tokenizer.json differ: delete one")
        if vocabulary_size is not None and len(vocabulary) != vocabulary_size:
            last = "; its last line is empty" if vocabulary[-1] == "" else ""
            raise BundleError(
                f"{folder}: the vocabulary has {len(vocabulary)} tokens, the embedding "
                f"{vocabulary_size} rows{last}"
            )
        try:
            tokenizer = cls(vocabulary, max_length=max_length, **options)
        except InputError as error:
            raise BundleError(f"{folder}: {error}") from error
        around = [tokenizer.start, tokenizer.separator]
        if name in _ANY_CLASSES and (found := _around(folder / "tokenizer.json")) != around:
            raise BundleError(
                f"{folder / 'tokenizer.json'}: a text stands in {found}, and BERT's in {around}; "
                "this tokenizer cannot be read"
            )
        mask = str(_content(config.get("mask_token", "[MASK]")))
        known = {*around, tokenizer.unknown, tokenizer.padding, mask}
        if more := sorted(_added_tokens(config, whole) - known):
            warnings.warn(
                f"{folder} adds the tokens {listed(more, ', ', 5)}: here they are split into "
                "pieces as other words are, so that texts which hold them get other ids than with "
                "transformers",
                stacklevel=2,
            )
        return tokenizer

    def _chunk(self, texts: list[str], limit: int) -> TokenIds:
        most = limit - self.special_tokens
        rows = []
        truncated = np.zeros(len(texts), bool)
        for index, pieces in enumerate(self._piece_rows(texts, most)):
            truncated[index] = len(pieces) > most
            rows.append([self._start, *pieces[:most], self._separator])
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        values = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        return TokenIds(values, lengths, truncated)

    def _rows(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int | None
    ) -> tuple[list[list[int]], list[list[int]]]:
        if pairs is None:
            return super()._rows(texts, None, max_length)
        texts, pairs = _checked_texts(texts), _checked_texts(pairs)
        most = self._checked_length(max_length, self.max_length) - self.special_tokens - 1
        ids, types = [], []
        for first, second in zip(
            self._piece_rows(texts, most), self._piece_rows(pairs, most), strict=True
        ):
            first, second = _longest_first(first, second, most)
            ids.append([self._start, *first, self._separator, *second, self._separator])
            types.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
        return ids, types

    def _piece_rows(self, texts: list[str], most: int) -> list[list[int]]:
        """Ids of each text's pieces: all of them, or more than `most`."""
        # A word has at least one piece, so the rest of a long text need not be looked at.
        words = [self._words(text, most + 1) for text in texts]
        known = self._pieces
        missing = set(chain.from_iterable(words)).difference(known)
        if missing:
            if len(known) + len(missing) > REMEMBERED:
                known, missing = {}, set(chain.from_iterable(words))
            known.update(self._pieced(missing))
            if len(known) <= REMEMBERED:
                self._pieces = known
        unknown = [self._unknown]
        return [list(chain.from_iterable(map(known.get, row, repeat(unknown)))) for row in words]

    def _words(self, text: str, most: int) -> list[str]:
        """The first words and punctuation of a text by BERT's rule."""
        if text.isascii() and not _ASCII_CONTROL.search(text):
            return _ASCII_WORD.findall(text.lower() if self.lowercase else text)[:most]
        text = text.translate(self._clean)
        if self.lowercase:
            text = text.lower()
        if self._strips:
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._part).split(None, most)[:most]

    def _pieced(self, words: Iterable[str]) -> dict[str, list[int]]:
        """Ids of each word that the library can take; any other word is unknown."""
        words = [
            word
            for word in words
            if len(word) <= self.max_word_characters and not _SURROGATE.search(word)
        ]
        encodings = self._model.encode_batch_fast(
            [[word] for word in words], is_pretokenized=True, add_special_tokens=False
        )
        return {word: encoding.ids for word, encoding in zip(words, encodings, strict=True)}


def _longest_first(first: list[int], second: list[int], most: int) -> tuple[list[int], list[int]]:
    """A pair cut to `most` tokens as BERT does, by dropping from the longer, or the second."""
    if len(first) + len(second) > most:
        first = first[: max(most - most // 2, most - len(second))]
        second = second[: most - len(first)]
    return first, second


# What a tokenizer.json must say, where it says anything, to be BERT's.
_BERT_SETTINGS = {
    ("model", "type"): "WordPiece",
    ("model", "continuing_subword_prefix"): "##",
    ("normalizer", "type"): "BertNormalizer",
    ("normalizer", "clean_text"): True,
    ("pre_tokenizer", "type"): "BertPreTokenizer",
}
# What a tokenizer_config.json must say, where it says anything.
_BERT_OPTIONS = {
    "do_basic_tokenize": True,
    "word_tokenizer_type": "basic",
    "subword_tokenizer_type": "wordpiece",
    "truncation_side": "right",
}
_BERT_CLASSES = (
    None,
    "BertTokenizer",
    "BertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
)
# Classes that do what tokenizer.json says.
_ANY_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# Our option: its key in tokenizer_config.json; its section and key in tokenizer.json.
CHECKPOINT_OPTIONS = {
    "lowercase": ("do_lower_case", "normalizer", "lowercase"),
    "strip_accents": ("strip_accents", "normalizer", "strip_accents"),
    "chinese_characters": ("tokenize_chinese_chars", "normalizer", "handle_chinese_chars"),
    "max_word_characters": ("max_input_chars_per_word", "model", "max_input_chars_per_word"),
    "unknown": ("unk_token", "model", "unk_token"),
    "start": ("cls_token", "", ""),
    "separator": ("sep_token", "", ""),
    "padding": ("pad_token", "", ""),
}


def _content(token: Any) -> Any:
    """A special token, which is written as a string or as an object that holds one."""
    return token.get("content") if isinstance(token, dict) else token


def _added_tokens(config: dict[str, Any], whole: dict[str, Any]) -> set[str]:
    """The tokens that are found in a text before it is parted into words."""
    entries = [*_section(config, "added_tokens_decoder").values()]
    if isinstance(listed := whole.get("added_tokens"), list):
        entries += listed
    return {token for token in map(_content, entries) if isinstance(token, str)}


def _around(path: Path) -> list[str]:
    """The tokens of an empty text."""
    import tokenizers

    try:
        found: list[str] = tokenizers.Tokenizer.from_file(str(path)).encode("").tokens
    except Exception as error:  # the library's own have no other class
        raise BundleError(f"{path} cannot be read by the tokenizers library: {error}") from None
    return found


def _section(whole: dict[str, Any], name: str) -> dict[str, Any]:
    section = whole.get(name)
    return section if isinstance(section, dict) else {}


def _vocabulary_of_model(path: Path, whole: dict[str, Any]) -> tuple[str, ...] | None:
    ids = _section(whole, "model").get("vocab")
    if ids is None:
        return None
    if (
        not isinstance(ids, dict)
        or not all(type(i) is int for i in ids.values())
        or sorted(ids.values()) != list(range(len(ids)))
    ):
        raise BundleError(f"{path}: the ids of model.vocab are not 0, 1, 2 and so on")
    return tuple(sorted(ids, key=ids.__getitem__))


# --- configs and files -----------------------------------------------------------------------

#: Kind, as a bundle's config names it, to class.
TOKENIZERS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (WordTokenizer, WordPieceTokenizer)
}


def tokenizer_from_config(
    config: dict[str, Any], vocabulary: Iterable[str], max_length: int
) -> Tokenizer:
    """The tokenizer that `{"kind": ..., **options}` describes.

    Raises:
        InputError: the kind or an option is unknown, or a value is of a wrong type.
    """
    if not isinstance(config, dict):
        raise InputError(f"tokenizer must be an object, not {type(config).__name__}")
    options = dict(config)
    kind = options.pop("kind", None)
    cls = TOKENIZERS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise InputError(f"unknown tokenizer kind {kind!r}: one of {sorted(TOKENIZERS)}")
    for name in options:
        if name not in cls.option_types:
            raise InputError(
                f"unknown tokenizer option {name!r}: {kind!r} has {sorted(cls.option_types)}"
            )
    return cls(vocabulary, max_length=max_length, **options)


def read_vocabulary(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The tokens of a vocabulary file: UTF-8, one a line, a token's line number less one its id.

    Raises:
        BundleError: the file is missing, empty, larger than 64 MiB or not UTF-8, or a token is
            there twice, too long, or holds a carriage return or NUL.
    """
    path = Path(path)
    data = _read_bytes(path)
    if data is None:
        raise BundleError(f"{path} is missing: a tokenizer needs its vocabulary")
    try:
        # Not splitlines: vocabularies hold U+2028 and its like as tokens.
        vocabulary = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BundleError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
    if not data:
        raise BundleError(f"{path} is empty: a vocabulary has one token a line")
    if data.startswith(codecs.BOM_UTF8):
        raise BundleError(
            f"{path} begins with a byte order mark, which is no part of a token: "
            "save it as UTF-8 without"
        )
    if fault := _vocabulary_fault(vocabulary):
        raise BundleError(f"{path}, line {fault[0] + 1}: {fault[1]}")
    return tuple(vocabulary)


def write_vocabulary(path: str | os.PathLike[str], vocabulary: Iterable[str]) -> None:
    """Write what `read_vocabulary` reads, by a temporary file and a rename.

    Raises:
        InputError: a token that no vocabulary file can hold.
    """
    vocabulary = tuple(vocabulary)
    if not vocabulary:
        raise InputError("an empty vocabulary cannot be written")
    if fault := _vocabulary_fault(vocabulary):
        raise InputError(f"vocabulary[{fault[0]}]: {fault[1]}")
    with replacing(Path(path)) as passing:
        passing.write_bytes("".join(f"{token}\n" for token in vocabulary).encode())


def _read_bytes(path: Path) -> bytes | None:
    try:
        size = path.stat().st_size
        if size > LARGEST_VOCABULARY_FILE:
            raise BundleError(f"{path} has {size} bytes, more than {LARGEST_VOCABULARY_FILE}")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    data = _read_bytes(path)
    if data is None:
        return {}
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} must hold an object, not {type(content).__name__}")
    return content
