"""The page that shows an `explain.Explanation`: tokens, scores, and a heat map of every head."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_agnews import pages
from keras_agnews.pages import escape, percent

if TYPE_CHECKING:
    from keras_agnews.explain import Explanation

# How BERT's vocabulary writes a piece inside a word, and how a person reads it.
_INSIDE = "##"
_MINUS = "\N{MINUS SIGN}"
# How to read attention weights, where each token attends and where the text as a whole does.
_EACH = """A heat map shows how much of what a token takes in, within one head, comes from each
token; a row adds up to 100&nbsp;%. It tells where a head looks. Why the model answers as it does,
it does not tell."""
_POOLED = """The answer is made from a mean of the network&rsquo;s states, one at each token; the
heat map shows the weight of each, and they add up to 100&nbsp;%. A state has read the text on both
sides of its token too. The weights tell where the model looks. Why it answers as it does, they do
not tell."""


def explanation_page(seen: Explanation, model: str) -> str:
    """A whole page, HTML.

    Args:
        seen: what `keras_agnews.attention` gave.
        model: its name, as the page shows it.
    """
    answer = seen.prediction
    score = answer.scores[seen.label]
    notes = []
    if seen.label != answer.label:
        notes.append(f"The model's answer is {answer.label}, {percent(answer.score)}.")
    if answer.truncated:
        notes.append("The text is longer than the model reads, and was cut.")
    column = list(answer.scores).index(seen.label)
    body = f"""
<header>
<p class="kicker">{escape(model)}</p>
<h1>{escape(seen.label)} <span class="figure">{percent(score)}</span></h1>
<p class="lead" dir="auto">{escape(seen.text)}</p>
{f'<p class="note">{escape(" ".join(notes))}</p>' if notes else ""}
</header>

<section aria-labelledby="words">
<h2 id="words">What speaks for {escape(seen.label)}</h2>
<p class="note">Were every word unknown to the model, the logit of {escape(seen.label)} would be
{signed(float(seen.baseline[column]))}. With these words it is
{signed(float(seen.logits[column]))}. Each word&rsquo;s part in that change:</p>
{_tokens(seen)}
{_key(seen)}
<p class="readout" id="word" aria-live="polite">&nbsp;</p>
</section>

<section aria-labelledby="scores">
<h2 id="scores">Scores</h2>
{_scores(seen)}
</section>
{_attention(seen)}
<section aria-labelledby="method">
<h2 id="method">How to read this</h2>
<p class="note">The shades are integrated gradients (Sundararajan et al. 2017): what each
token&rsquo;s embedding adds to the logit on the straight way from a text of unknown words. They add
up to {signed(float(seen.attribution.sum()))}, where the logit changes by
{signed(float(seen.logits[column] - seen.baseline[column]))}. Special tokens are part of every text
and have none.</p>
<p class="note">{_POOLED if seen.pooled else _EACH}</p>
</section>
"""
    title = f"{seen.label}: {' '.join(seen.text.split())[:80]}"
    return pages.render(title, body, "explain.css", "explain.js", _data(seen))


def signed(value: float) -> str:
    """Two decimals and a sign, but none on a zero."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else _MINUS}{text}"


def readable(tokens: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Each token as a person reads it, and whether it goes on with the word before."""
    inside = [
        token.startswith(_INSIDE) and len(token) > len(_INSIDE) and i > 0
        for i, token in enumerate(tokens)
    ]
    return [
        (token.removeprefix(_INSIDE) if piece else token, piece)
        for token, piece in zip(tokens, inside, strict=True)
    ]


def _tokens(seen: Explanation) -> str:
    if not seen.tokens:
        return '<p class="tokens">The model sees no token in this text.</p>'
    largest = _largest(seen) or 1.0
    words: list[str] = []
    for i, (text, inside) in enumerate(readable(seen.tokens)):
        value = float(seen.attribution[i])
        shown = signed(value)
        if seen.specials[i]:
            kind = "special"
        elif shown == signed(0):
            kind = "neither"
        else:
            kind = "for" if value > 0 else "against"
        item = (
            f'<span role="option" class="token {kind}" data-index="{i}" '
            f'tabindex="{-1 if i else 0}" aria-selected="false" title="{shown}" '
            f'aria-label="{escape(text)}: {shown}" style="--a:{abs(value) / largest:.3f}">'
            f"<bdi>{escape(text)}</bdi></span>"
        )
        words.append(words.pop() + item if inside else item)
    # A line may end between words alone.
    items = "\n".join(
        f'<span class="word" role="presentation" dir="auto">{word}</span>' for word in words
    )
    return (
        '<div class="tokens" id="tokens" role="listbox" aria-orientation="horizontal" '
        f'aria-label="Tokens, and what each adds to {escape(seen.label)}">{items}</div>'
    )


def _largest(seen: Explanation) -> float:
    return float(np.abs(seen.attribution).max(initial=0))


def _key(seen: Explanation) -> str:
    most = signed(_largest(seen)).removeprefix("+")
    return f"""<p class="key"><span>against {_MINUS}{most}</span>
<span class="ramp" role="img" aria-label="Orange, dotted: against. Blue, underlined: for."></span>
<span>+{most} for</span></p>"""


def _scores(seen: Explanation) -> str:
    rows = sorted(seen.prediction.scores.items(), key=lambda item: -item[1])
    items = "".join(
        f'<tr{" class=chosen" if label == seen.label else ""}><th scope="row">{escape(label)}</th>'
        f'<td class="bar" aria-hidden="true"><span style="width:{max(score, 0.002):.2%}"></span>'
        f"</td><td>{percent(score)}</td></tr>"
        for label, score in rows
    )
    return f'<table class="scores" aria-label="Score of each label">{items}</table>'


def _attention(seen: Explanation) -> str:
    if not seen.tokens:
        return ""
    layers, heads = seen.weights.shape[:2]
    if seen.pooled:
        title, chooser, steps, named = "What the text as a whole attends to", "", "", "attention"
        hint = "Point at a cell, or move with the arrow keys."
    else:
        title, chooser, named = "What each token attends to", _chooser(layers, heads), "which"
        hint = "Rows take in, columns give. Point at a cell, or move with the arrow keys."
        steps = """<div class="steps">
<button type="button" class="step" id="before" aria-label="Head before">&larr;</button>
<h3 id="which" aria-live="polite">Layer 1, head 1</h3>
<button type="button" class="step" id="after" aria-label="Next head">&rarr;</button>
</div>"""
    return f"""
<section aria-labelledby="attention">
<h2 id="attention">{title}</h2>
<div class="attention{" pooled" if seen.pooled else ""}" style="--heads:{heads}">
{chooser}<figure class="shown">
{steps}
<p class="note" id="summary">&nbsp;</p>
<div id="map" tabindex="0" role="application" aria-roledescription="heat map"
 aria-labelledby="{named}" aria-describedby="cell"></div>
<p class="key"><span>0</span><span class="ramp heat" aria-hidden="true"></span>
<span id="most">100 %</span></p>
<p class="readout" id="cell" aria-live="polite">&nbsp;</p>
<figcaption class="hint">{hint}</figcaption>
</figure>
</div>
</section>
"""


def _chooser(layers: int, heads: int) -> str:
    columns = "".join(
        f'<span class="axis" aria-hidden="true">{head}</span>' for head in range(1, heads + 1)
    )
    rows = ""
    for layer in range(layers):
        cells = "".join(
            f'<button type="button" role="radio" class="head" data-layer="{layer}" '
            f'data-head="{head}" tabindex="{-1 if layer or head else 0}" '
            f'aria-checked="{"false" if layer or head else "true"}" '
            f'aria-label="Layer {layer + 1}, head {head + 1}" '
            f'title="layer {layer + 1}, head {head + 1}"><span></span></button>'
            for head in range(heads)
        )
        rows += f'<span class="axis" aria-hidden="true">{layer + 1}</span>{cells}'
    return f"""<div class="chooser">
<p class="note" id="choose">Layers down, heads across; click one, or use the arrow keys.</p>
<div class="heads" id="heads" role="radiogroup" aria-label="Layer and head"
 aria-describedby="choose"><span></span>{columns}{rows}</div>
</div>
"""


def _data(seen: Explanation) -> dict[str, Any]:
    layers, heads, rows, length = seen.weights.shape
    # Sixteen bits each, which is a third of what they would take as decimals.
    packed = np.rint(seen.weights * 65_535).astype("<u2").tobytes()
    return {
        "tokens": [text for text, _ in readable(seen.tokens)],
        "inside": [inside for _, inside in readable(seen.tokens)],
        "special": seen.specials.tolist(),
        "attribution": [round(value, 4) for value in seen.attribution.tolist()],
        "label": seen.label,
        "layers": layers,
        "heads": heads,
        "rows": rows,
        "length": length,
        "pooled": seen.pooled,
        "weights": base64.b64encode(packed).decode(),
    }
