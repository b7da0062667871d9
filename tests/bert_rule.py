"""BERT's original tokenization, read plainly from its description: slow, and an oracle for tests.

Follows the steps of https://github.com/google-research/bert/blob/master/tokenization.py one by one
and one character at a time. It shares no code with the package.
"""

from __future__ import annotations

import unicodedata


def is_white_space(character: str) -> bool:
    return character in (" ", "\t", "\n", "\r") or unicodedata.category(character) == "Zs"


def is_control(character: str) -> bool:
    if character in ("\t", "\n", "\r"):
        return False
    return unicodedata.category(character) in ("Cc", "Cf")


def is_punctuation(character: str) -> bool:
    code = ord(character)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(character)[0] == "P"


def is_chinese(character: str) -> bool:
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def clean(text: str) -> str:
    kept = ""
    for character in text:
        if ord(character) in (0, 0xFFFD) or is_control(character):
            continue
        kept += " " if is_white_space(character) else character
    return kept


def separate_chinese(text: str) -> str:
    return "".join(f" {c} " if is_chinese(c) else c for c in text)


def without_accents(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def split_at_punctuation(word: str) -> list[str]:
    parts: list[list[str]] = []
    begin = True
    for character in word:
        if is_punctuation(character):
            parts.append([character])
            begin = True
        else:
            if begin:
                parts.append([])
            begin = False
            parts[-1].append(character)
    return ["".join(part) for part in parts]


def words(
    text: str, lowercase: bool = True, strip_accents: bool | None = None, chinese: bool = True
) -> list[str]:
    """The words of a text. `strip_accents=None`, as in the original, is `lowercase`."""
    text = clean(text)
    if chinese:
        text = separate_chinese(text)
    found = []
    for word in text.strip().split():
        if lowercase:
            word = word.lower()
        if strip_accents or (strip_accents is None and lowercase):
            word = without_accents(word)
        found += split_at_punctuation(word)
    return " ".join(found).split()


def pieces(word: str, vocabulary: dict[str, int], longest: int, unknown: str) -> list[str]:
    """Greedily the longest piece that matches; the whole word is unknown where none does."""
    if len(word) > longest:
        return [unknown]
    found = []
    start = 0
    while start < len(word):
        end = len(word)
        while start < end:
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
            end -= 1
        if start == end:
            return [unknown]
        found.append(piece)
        start = end
    return found


def tokens(
    text: str,
    vocabulary: dict[str, int],
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese: bool = True,
    longest: int = 100,
    unknown: str = "[UNK]",
) -> list[str]:
    """A text's pieces, without special tokens."""
    found = []
    for word in words(text, lowercase, strip_accents, chinese):
        found += pieces(word, vocabulary, longest, unknown)
    return found


def pack(
    first: list[str], second: list[str] | None, max_length: int
) -> tuple[list[str], list[int]]:
    """A sequence with its special tokens, cut to `max_length`, and its token types."""
    first = list(first)
    if second is None:
        first = first[: max_length - 2]
        return ["[CLS]", *first, "[SEP]"], [0] * (len(first) + 2)
    second = list(second)
    while len(first) + len(second) > max_length - 3:
        (first if len(first) > len(second) else second).pop()
    packed = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
    return packed, [0] * (len(first) + 2) + [1] * (len(second) + 1)
