"""The report on labelled texts: its figures, and that what it quotes is only text."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_agnews.report import CONFIDENT, SHOWN, Answers, by_length, report_page, wilson

NAMES = ("World", "<b>Sports</b>", "Business")


def answers(rows: int = 400, seed: int = 0, wrong: float = 0.2) -> Answers:
    """What a classifier that is right as often as it says, but for `wrong` of the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, len(NAMES))) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(len(NAMES), p=row) for row in probabilities])
    changed = rng.random(rows) < wrong
    labels[changed] = rng.integers(0, len(NAMES), changed.sum())
    return Answers(
        texts=[f"text {i} <script>alert({i})</script> \ud800" for i in range(rows)],
        labels=labels,
        probabilities=probabilities,
        lengths=rng.integers(3, 60, rows),
        truncated=7,
        label_names=NAMES,
    )


class Parsed(HTMLParser):
    """The tags of a page, its text, and the text of its mistakes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.quotes: list[str] = []
        self._in_quote = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_quote = ("class", "quote") in attrs

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_quote:
            self.quotes.append(data)
            self._in_quote = False


def test_figures_are_those_of_the_rows() -> None:
    found = answers()
    page = Parsed(report_page(found, "model", "rows.csv"))
    best = [int(np.argmax(row)) for row in found.probabilities]
    right = [a == b for a, b in zip(best, found.labels.tolist(), strict=True)]
    assert f"{100 * sum(right) / 400:.2f}\N{NO-BREAK SPACE}%" in page.text
    assert "rows.csv: 400 texts, 7 of them cut" in page.text
    mistakes = [i for i in range(400) if not right[i]]
    sure = [i for i in range(400) if max(found.probabilities[i]) >= CONFIDENT]
    noisy = set(mistakes) & set(sure)
    assert 0 < len(noisy) < len(mistakes)
    said = " ".join(page.text.split())
    assert f"{len(noisy)} of the {len(mistakes)} mistakes look like label noise" in said
    expected = math.fsum(1 - max(found.probabilities[i]) for i in sure)
    assert f"There are {len(sure)} answers with such a score" in said
    assert f"{expected:.1f} of them would be wrong" in said
    counts = [[0] * len(NAMES) for _ in NAMES]
    for label, answer in zip(found.labels.tolist(), best, strict=True):
        counts[label][answer] += 1
    shown = re.findall(
        r'<td class="(?:right|wrong)"[^>]*>([0-9,]+)</td>', report_page(found, "", "")
    )
    assert [int(n.replace(",", "")) for n in shown] == [n for row in counts for n in row]


def test_each_mark_stands_where_its_row_says() -> None:
    """The diagrams against the tables beside them, and these against the rows."""
    found = answers(2_000)
    page = report_page(found, "model", "rows")
    best, score = found.probabilities.argmax(1), found.probabilities.max(1)
    right = best == found.labels
    rows = [
        re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row)
        for row in re.findall("<tr>(.*?)</tr>", page, re.DOTALL)
    ]
    bands = [row for row in rows if re.fullmatch("[01][.][0-9]{2} to [01][.][0-9]{2}", row[0])]
    assert len(bands) > 5
    reliability, lengths = re.findall("<svg.*?</svg>", page, re.DOTALL)
    for band, (x, y) in zip(bands, _circles(reliability), strict=True):
        low, high = (round(15 * float(edge)) / 15 for edge in band[0].split(" to "))
        inside = (score > low) & (score <= high)
        assert band[1:] == [
            f"{inside.sum():,}",
            f"{100 * score[inside].mean():.1f}",
            f"{100 * right[inside].mean():.1f}",
        ]
        # On both axes a share of 1 is 300 long.
        assert x == pytest.approx(44 + 300 * score[inside].mean(), abs=0.06)
        assert y == pytest.approx(326 - 300 * right[inside].mean(), abs=0.06)
    groups = by_length(found)
    floor = np.floor(10 * min(group["interval"][0] for group in groups)) / 10
    assert 0 < floor < 0.9
    for group, (_, y) in zip(groups, _circles(lengths), strict=True):
        assert y == pytest.approx(326 - 300 * (group["accuracy"] - floor) / (1 - floor), abs=0.06)


def _circles(picture: str) -> list[tuple[float, float]]:
    marks = re.findall('<circle cx="([0-9.]+)" cy="([0-9.]+)"', picture)
    return [(float(x), float(y)) for x, y in marks]


def test_the_surest_mistakes_come_first_and_are_only_text() -> None:
    found = answers(1_000)
    page = Parsed(report_page(found, "<i>model</i>", "<u>rows</u>"))
    wrong = [i for i in range(1_000) if np.argmax(found.probabilities[i]) != found.labels[i]]
    wrong.sort(key=lambda i: -max(found.probabilities[i]))
    assert len(wrong) > SHOWN
    expected = [found.texts[i].replace("\ud800", "\ufffd") for i in wrong[:SHOWN]]
    assert page.quotes == expected
    verdicts = re.findall(r'<p class="verdict">(.*?)</p>', report_page(found, "m", "r"))
    for verdict, i in zip(verdicts, wrong, strict=False):
        label, answer = (NAMES[c] for c in (found.labels[i], found.probabilities[i].argmax()))
        share = f"{100 * max(found.probabilities[i]):.1f}\N{NO-BREAK SPACE}%"
        assert " ".join(Parsed(verdict).text.split(" ")) == f"{label} \u2192 {answer} {share}"
    assert not {"script", "i", "u"} & set(page.tags)
    assert page.tags.count("b") == 1 + SHOWN  # ours


def test_no_mistakes_and_one_row() -> None:
    one = Answers(["a"], np.array([1]), np.array([[0.25, 0.5, 0.25]]), np.array([0]), 0, NAMES)
    assert "There are none." in report_page(one, "model", "rows")
    (group,) = by_length(one)
    assert (group["low"], group["high"], group["rows"], group["accuracy"]) == (0, 0, 1, 1.0)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=80), seed=st.integers(0, 2**32 - 1)
)
def test_groups_of_like_length_are_all_rows_once(lengths: list[int], seed: int) -> None:
    rows = len(lengths)
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(len(NAMES)), rows)
    labels = rng.integers(0, len(NAMES), rows)
    found = Answers([""] * rows, labels, probabilities, np.array(lengths), 0, NAMES)
    groups = by_length(found)
    assert sum(group["rows"] for group in groups) == rows
    assert all(a["high"] < b["low"] for a, b in itertools.pairwise(groups))
    for group in groups:
        inside = [i for i in range(rows) if group["low"] <= lengths[i] <= group["high"]]
        right = sum(int(np.argmax(probabilities[i])) == labels[i] for i in inside)
        assert group["rows"] == len(inside)
        assert group["accuracy"] == pytest.approx(right / len(inside))
        assert group["interval"][0] <= group["accuracy"] <= group["interval"][1]


@given(right=st.integers(0, 50), more=st.integers(1, 500))
def test_wilsons_interval_is_where_the_share_is_just_likely(right: int, more: int) -> None:
    """At its ends, the share seen is 1.96 standard errors of that end away."""
    count = right + more
    for end in wilson(right / count, count):
        error = math.sqrt(end * (1 - end) / count)
        assert abs(end - right / count) == pytest.approx(1.96 * error, abs=1e-9)
