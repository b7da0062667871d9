"""The skeleton of a page that stands by itself: one file, no network, light and dark.

Styles, script and data are inside the file, and a content security policy lets the browser load
nothing else and run that one script only. Texts come from anywhere, so nothing enters a page but
through `escape`, or as data for the script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

from keras_agnews import __version__
from keras_agnews.errors import InputError
from keras_agnews.files import check_writable

_SURROGATE = re.compile("[\ud800-\udfff]")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main>
{body}
</main>
<footer>Made by keras_agnews {version}. The whole page is this one file.</footer>
{script}
</body>
</html>
"""


def escape(text: str) -> str:
    """`text` as HTML, in an element or in a quoted attribute."""
    return html.escape(_SURROGATE.sub("\ufffd", text))


def percent(share: float, digits: int = 1) -> str:
    """In per cent, after a space that does not break."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def render(title: str, body: str, styles: str, script: str = "", data: Any = None) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML, what is text in it escaped.
        styles: name of a style sheet among our assets, beside the one that all pages share.
        script: name of a script among our assets; none where empty.
        data: JSON-able, what the script finds in the element with the id "data".
    """
    scripts, allowed = "", "'none'"
    if script:
        # JSON has no business with these three but in strings.
        island = re.sub("[<>&]", lambda m: f"\\u{ord(m[0]):04x}", json.dumps(data, allow_nan=False))
        code = f"\n{_asset(script)}"
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        allowed = f"'sha256-{digest}'"
        scripts = (
            f'<script type="application/json" id="data">{island}</script>\n<script>{code}</script>'
        )
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _PAGE.format(
        policy=policy,
        title=escape(title),
        style=f"{_asset('page.css')}\n{_asset(styles)}",
        body=body,
        version=__version__,
        script=scripts,
    )


def check_path(path: Path) -> None:
    """Raise `InputError` where no page could be written, before anything is computed for it."""
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the name of a file, such as page.html")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: there is no directory {path.absolute().parent}: make it first")
    replaced = path.is_file() or not path.exists()  # and not written to, as a device is
    check_writable(path.absolute().parent if replaced else path, str(path))


def _asset(name: str) -> str:
    return (importlib.resources.files("keras_agnews") / "assets" / name).read_text("utf-8")
