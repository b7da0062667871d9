"""The page that shows how a classifier did on labelled texts.

It has figures, the confusion matrix, a reliability diagram, accuracy by length, and the mistakes
of which the classifier was most sure. No script: it is drawn here, as SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_agnews import metrics, pages
from keras_agnews.pages import escape, percent

# A mistake with so high a score looks as if the label were wrong, not the answer.
CONFIDENT = 0.95
SHOWN = 60  # of the mistakes
_GROUPS = 8  # of like length
_FEW = 20  # answers that tell little together


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier answered on labelled texts.

    Attributes:
        texts: n texts.
        labels: int `(n,)`, their true classes.
        probabilities: float `(n, classes)`.
        lengths: int `(n,)`, tokens of each text.
        truncated: how many texts were longer than the model reads.
        label_names: one name a class.
    """

    texts: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    lengths: np.ndarray
    truncated: int
    label_names: Sequence[str]

    @property
    def best(self) -> np.ndarray:
        """The answers, int `(n,)`."""
        found: np.ndarray = self.probabilities.argmax(axis=1)
        return found

    @property
    def score(self) -> np.ndarray:
        """The probability of each answer, float `(n,)`."""
        found: np.ndarray = self.probabilities.max(axis=1)
        return found

    def mistakes(self) -> np.ndarray:
        """Places of the wrong answers, the surest first."""
        wrong = np.flatnonzero(self.best != self.labels)
        return wrong[np.argsort(-self.score[wrong], kind="stable")]


def report_page(answers: Answers, model: str, data: str) -> str:
    """A whole page, HTML. It quotes the texts that were answered wrong.

    Args:
        answers: what was answered.
        model: its name, as the page shows it.
        data: what the texts are, e.g. the file's name.
    """
    names = answers.label_names
    scores = metrics.scores(answers.labels, answers.best, len(names))
    reliability = metrics.reliability(answers.probabilities, answers.labels)
    rows = len(answers.texts)
    cut = f", {answers.truncated:,} of them cut" if answers.truncated else ""
    figures = {
        "accuracy": percent(scores.accuracy, 2),
        "macro F1": percent(scores.macro_f1, 2),
        "expected calibration error": percent(reliability.error, 2),
        "mistakes": f"{len(answers.mistakes()):,}",
    }
    shown = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in figures.items())
    body = f"""
<header>
<p class="kicker">{escape(data)}: {rows:,} texts{cut}</p>
<h1>{escape(model)}</h1>
<dl class="figures">{shown}</dl>
</header>

<section aria-labelledby="classes">
<h2 id="classes">Classes</h2>
<div class="pair tables">
{_classes(scores, names)}
{_confusion(scores.confusion, names)}
</div>
</section>

<section aria-labelledby="calibration">
<h2 id="calibration">Does it know what it does not know?</h2>
<div class="pair">
{_reliability(reliability)}
{_by_length(answers)}
</div>
</section>

<section aria-labelledby="mistakes">
<h2 id="mistakes">The most confident mistakes</h2>
{_mistakes(answers)}
</section>
"""
    return pages.render(f"{model} on {data}", body, "report.css")


def by_length(answers: Answers) -> list[dict[str, Any]]:
    """Accuracy of texts grouped by length, about equally many in each group, shortest first.

    Returns: `low` and `high`, the tokens of the shortest and longest text of a group; `rows`;
    `accuracy`; `interval`, its 95 % confidence interval after Wilson 1927.
    """
    right = answers.best == answers.labels
    marks = np.unique(np.quantile(answers.lengths, np.arange(1, _GROUPS) / _GROUPS, method="lower"))
    place = np.searchsorted(marks, answers.lengths)
    groups = []
    for group in np.unique(place):
        inside = place == group
        lengths, count = answers.lengths[inside], int(inside.sum())
        accuracy = float(right[inside].mean())
        groups.append(
            {
                "low": int(lengths.min()),
                "high": int(lengths.max()),
                "rows": count,
                "accuracy": accuracy,
                "interval": wilson(accuracy, count),
            }
        )
    return groups


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share among `count`, at 95 % for the default `z`."""
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, float((middle - half) / scale)), min(1.0, float((middle + half) / scale))


# --- the parts -------------------------------------------------------------------------------


def _classes(scores: metrics.Scores, names: Sequence[str]) -> str:
    rows = ""
    for i, name in enumerate(names):
        fractions = scores.of_class(i).values()
        shown = ("-" if value is None else f"{100 * value:.1f}" for value in fractions)
        rows += _row(escape(name), *shown, f"{scores.confusion[i].sum():,}")
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("precision", "recall", "F1", "texts"))
    return f"""<figure><div class="scroll"><table class="numbers"><thead><tr>
<td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<figcaption>Per class, in per cent.</figcaption></figure>"""


def _confusion(confusion: np.ndarray, names: Sequence[str]) -> str:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    # Mistakes are few; they are shaded by the most frequent of them.
    most = float((shares - np.diag(np.diag(shares))).max()) or 1.0
    rows = ""
    for i, name in enumerate(names):
        cells = ""
        for j, answer in enumerate(names):
            share = shares[i, j]
            kind, depth = ("right", share) if i == j else ("wrong", share / most)
            cells += (
                f'<td class="{kind}" style="--a:{depth:.3f}" title="{escape(name)} answered with '
                f'{escape(answer)}: {percent(share)}">{confusion[i, j]:,}</td>'
            )
        rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return f"""<figure><div class="scroll"><table class="numbers matrix"><thead><tr>
<td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div>
<figcaption>Confusion matrix: a row is the true class, a column the answer.</figcaption></figure>"""


def _reliability(found: metrics.Reliability) -> str:
    left, top, side, strip = 44, 26, 300, 46
    bottom = top + side
    floor = bottom + 48 + strip  # of the bars below the diagram

    def x(share: float) -> float:
        return left + side * share

    def y(share: float) -> float:
        return bottom - side * share

    marks = [_text(left, top - 12, "answers that are right, %")]
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        marks.append(f'<path class="grid" d="M{left} {y(tick):.1f}h{side}"/>')
        marks.append(_text(left - 6, y(tick) + 4, f"{100 * tick:.0f}", "end"))
        marks.append(_text(x(tick), bottom + 16, f"{100 * tick:.0f}", "center"))
    marks.append(_text(left, bottom + 34, "score of the answer, %"))
    marks.append(f'<path class="even" d="M{x(0)} {y(0)}L{x(1)} {y(1)}"/>')
    rows = ""
    for i in np.flatnonzero(found.count):
        count, score, right = int(found.count[i]), found.confidence[i], found.accuracy[i]
        low, high = wilson(float(right), count)
        band = f"{found.edges[i]:.2f} to {found.edges[i + 1]:.2f}"
        title = f"score {band}: {count:,} answers, mean score {score:.1%}, right {right:.1%}"
        height = max(strip * count / found.count.max(), 0.5)
        width = side / len(found.count) - 2
        marks.append(
            f"<g{' class=few' if count < _FEW else ''}><title>{title}</title>"
            f'<path class="gap" d="M{x(score):.1f} {y(score):.1f}V{y(right):.1f}"/>'
            f'<path class="whisker" d="M{x(score):.1f} {y(low):.1f}V{y(high):.1f}"/>'
            f'<circle cx="{x(score):.1f}" cy="{y(right):.1f}" r="4.5"/>'
            f'<rect class="count" x="{x(found.edges[i]) + 1:.1f}" y="{floor - height:.1f}" '
            f'width="{width:.1f}" height="{height:.1f}"/></g>'
        )
        rows += _row(band, f"{count:,}", f"{100 * score:.1f}", f"{100 * right:.1f}")
    marks.append(_text(left, floor + 16, "answers with that score"))
    name = f"Reliability diagram; the expected calibration error is {percent(found.error, 2)}"
    return f"""<figure>{_svg(left + side + 14, floor + 26, marks, name)}
<figcaption>On the line, scores mean what they say; below it the model is too sure. Whiskers are
95&nbsp;% confidence intervals; fewer than {_FEW} answers are faint. On average the two are
{percent(found.error, 2)} apart ({len(found.count)} bins).</figcaption>
{_details(("score", "answers", "mean score, %", "right, %"), rows)}</figure>"""


def _by_length(answers: Answers) -> str:
    groups = by_length(answers)
    left, top, width, height = 44, 26, 300, 300
    bottom = top + height
    least = min(group["interval"][0] for group in groups)
    floor = min(float(np.floor(10 * least)) / 10, 0.9)

    def y(share: float) -> float:
        return bottom - height * (share - floor) / (1 - floor)

    marks = [_text(left, top - 12, "answers that are right, %")]
    for tick in np.linspace(floor, 1, 6):
        marks.append(f'<path class="grid" d="M{left} {y(tick):.1f}h{width}"/>')
        marks.append(_text(left - 6, y(tick) + 4, f"{100 * tick:.0f}", "end"))
    rows = ""
    for i, group in enumerate(groups):
        middle = left + (i + 0.5) * width / len(groups)
        low, high = group["interval"]
        same = group["low"] == group["high"]
        tokens = str(group["low"]) if same else f"{group['low']}\N{EN DASH}{group['high']}"
        marks.append(
            f"<g><title>{tokens} tokens: {group['rows']:,} texts, right {group['accuracy']:.1%}"
            f'</title><path class="whisker" d="M{middle:.1f} {y(low):.1f}V{y(high):.1f}"/>'
            f'<circle cx="{middle:.1f}" cy="{y(group["accuracy"]):.1f}" r="4.5"/></g>'
            f'<g transform="translate({middle + 4:.1f} {bottom + 14}) rotate(-40)">'
            f"{_text(0, 0, tokens, 'end')}</g>"
        )
        shown = (f"{100 * share:.1f}" for share in (group["accuracy"], low, high))
        rows += _row(tokens, f"{group['rows']:,}", *shown)
    marks.append(_text(left, bottom + 66, "tokens of a text"))
    picture = _svg(left + width + 14, bottom + 76, marks, "Accuracy by length of the text")
    return f"""<figure>{picture}
<figcaption>Accuracy by length, in {len(groups)} groups of about as many texts; the axis begins at
{percent(floor, 0)}. Whiskers are 95&nbsp;% confidence intervals.</figcaption>
{_details(("tokens", "texts", "right, %", "from", "to"), rows)}</figure>"""


def _mistakes(answers: Answers) -> str:
    wrong = answers.mistakes()
    sure = answers.score >= CONFIDENT
    noisy = int(sure[wrong].sum())
    expected = float((1 - answers.score[sure]).sum())
    if not len(wrong):
        return "<p>There are none.</p>"
    items = "".join(
        f'<li><p class="verdict"><span class="of">{escape(answers.label_names[answers.labels[i]])}'
        f'</span> <span role="img" aria-label="answered with">&rarr;</span> '
        f"<b>{escape(answers.label_names[answers.best[i]])}</b> "
        f"<span>{percent(answers.score[i])}</span></p>"
        f'<p class="quote" dir="auto">{escape(answers.texts[i])}</p></li>'
        for i in wrong[:SHOWN]
    )
    return f"""<p><b>{noisy:,}</b> of the {len(wrong):,} mistakes look like label noise: the model
gives another label than the row&rsquo;s a score of at least {percent(CONFIDENT, 0)}. That is a
count and no verdict; only a reader can tell. There are {int(sure.sum()):,} answers with such a
score, and if scores were exact, {expected:,.1f} of them would be wrong.</p>
<p class="note">The row&rsquo;s label &rarr; the answer, and its score.
{"" if len(wrong) <= SHOWN else f"The first {SHOWN}."}</p>
<ol class="mistakes">{items}</ol>"""


# --- drawing ---------------------------------------------------------------------------------


def _svg(width: float, height: float, marks: list[str], name: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(name)}">{"".join(marks)}</svg>'
    )


def _text(x: float, y: float, text: str, kind: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{text}</text>'


def _row(head: str, *cells: str) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _details(heads: Sequence[str], rows: str) -> str:
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"""<details><summary>Numbers</summary><div class="scroll"><table class="numbers">
<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div></details>"""
