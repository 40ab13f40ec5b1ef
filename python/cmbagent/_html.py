"""Pieces of HTML for notebooks: escaped text, tables, chains of boxes, thumbnails.

Colours are mixed from the page's own text colour, so that light and dark themes can both be read.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
"""The files that are shown as pictures: suffix → MIME type."""
THUMBNAIL_BYTES = 500_000
"""The largest picture that becomes a thumbnail; larger ones are named only."""
THUMBNAILS_BYTES = 3_000_000
"""The size of all thumbnails of one display together."""
TEXT_CHARACTERS = 400
"""The length from which a text in a cell of a table is cut."""
ROWS = 100
"""The rows of a table that are shown."""

# Jupyter aligns the cells of tables to the right, with selectors that weigh more than ours.
_STYLE = """<style>
.cmbagent{color:inherit;line-height:1.45;margin:.3em 0}
.cmbagent .head{font-weight:600;font-size:1.05em}
.cmbagent .faint{opacity:.8;margin:.15em 0}
.cmbagent .words{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0}
.cmbagent .unbroken{white-space:nowrap}
.cmbagent .told{font-family:monospace;font-size:.9em}
.cmbagent summary{cursor:pointer}
.cmbagent details>div{margin:.2em 0 .2em 1em}
.cmbagent table{border-collapse:collapse;color:inherit;margin:.2em 0}
.cmbagent th,.cmbagent td{text-align:left!important;vertical-align:top!important;padding:.15em .6em;
 max-width:44em!important;border-bottom:1px solid rgba(128,128,128,.45);background:none;
 white-space:pre-wrap!important;overflow-wrap:anywhere}
.cmbagent th{white-space:nowrap!important}
.cmbagent .row{display:flex;flex-wrap:wrap;align-items:center;gap:.4em;margin:.4em 0}
.cmbagent .box{border:1px solid rgba(128,128,128,.45);border-radius:.4em;padding:.25em .7em;
 background:rgba(128,128,128,.14);text-align:center}
.cmbagent .box small{opacity:.8}
.cmbagent figure{margin:0;text-align:center}
.cmbagent img{max-width:100%}
.cmbagent figure img{max-width:14em;max-height:11em;background:#fff;border:1px solid rgba(128,128,128,.45)}
.cmbagent .bar{height:.35em;max-width:40em;border-radius:.2em;background:rgba(128,128,128,.25)}
.cmbagent .bar div{height:100%;border-radius:.2em}
</style>"""
# Readable on white as on near-black.
_COLOURS = {
    "completed": "#2e9e5b",
    "running": "#3b82d6",
    "failed": "#d9534f",
    "paused": "#c98a1b",
    "waiting_approval": "#c98a1b",
}


def text(value: Any, limit: int = TEXT_CHARACTERS) -> str:
    """Escape a value's text; cut it where it is longer than `limit` characters."""
    plain = "" if value is None else str(value)
    return escape(plain if len(plain) <= limit else plain[: limit - 1] + "…")


def block(title: str, *parts: str) -> str:
    """Put parts (HTML) under a title (text)."""
    return whole(f'<div class="head">{text(title)}</div>', *parts)


def whole(*parts: str) -> str:
    """Make one display of parts (HTML), with the styles they need.

    Pages that set mathematics leave it alone: the text between two prices is no formula.
    """
    return f'{_STYLE}<div class="cmbagent mathjax_ignore tex2jax_ignore">{"".join(parts)}</div>'


def line(*parts: str) -> str:
    """Set parts (HTML) in one line, with dots between them."""
    return f'<div class="faint">{" · ".join(part for part in parts if part)}</div>'


def paragraph(value: Any, limit: int = 2_000) -> str:
    """A text as a paragraph that keeps its line breaks; nothing for none."""
    return f'<div class="words">{text(value, limit)}</div>' if value else ""


def told(value: Any, limit: int = 2_000) -> str:
    """What an agent or a script has put out, with its layout; nothing for none."""
    return f'<div class="words told">{text(value, limit)}</div>' if value else ""


def unbroken(value: Any) -> str:
    """A text that stays in one line."""
    return f'<span class="unbroken">{text(value)}</span>'


def status(word: str) -> str:
    """A status as a coloured word."""
    return f'<b class="unbroken" style="color:{_colour(word)}">{text(word.replace("_", " "))}</b>'


def bar(fraction: float, word: str) -> str:
    """A bar that is filled to a fraction from 0 to 1, in the colour of a status."""
    width = round(100 * min(1.0, max(0.0, fraction)))
    return f'<div class="bar"><div style="width:{width}%;background:{_colour(word)}"></div></div>'


def details(title: str, content: str, *, opened: bool = False) -> str:
    """A part that can be unfolded; nothing for no content."""
    if not content:
        return ""
    attribute = " open" if opened else ""
    return f"<details{attribute}><summary>{text(title)}</summary><div>{content}</div></details>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already, under a header of text; nothing for no rows.

    Columns without any content are left out.
    """
    every = list(rows)
    if not every:
        return ""
    columns = [n for n in range(len(header)) if any(row[n] for row in every)]
    header = [header[n] for n in columns]
    every = [[row[n] for n in columns] for row in every]
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{each}</td>" for each in row) + "</tr>" for row in every[:ROWS])
    more = line(f"{len(every) - ROWS} more") if len(every) > ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def chain(boxes: Iterable[tuple[str, str]]) -> str:
    """Boxes joined by arrows; each of a title and a note, both text."""
    drawn = [
        f'<span class="box"><b>{text(title)}</b>'
        + (f"<br><small>{text(note)}</small>" if note else "")
        + "</span>"
        for title, note in boxes
    ]
    return f'<div class="row">{" → ".join(drawn)}</div>' if drawn else ""


def thumbnails(paths: Iterable[str | Path]) -> str:
    """The pictures among the files, small and side by side; those too large are named."""
    left = THUMBNAILS_BYTES
    shown, named = [], []
    for path in (Path(each) for each in paths if is_image(each)):
        content = image_bytes(path, min(THUMBNAIL_BYTES, left))
        if content is None:
            named.append(text(path.name))
            continue
        left -= len(content)
        image = picture(IMAGE_TYPES[path.suffix.lower()], content, path.name)
        shown.append(f"<figure>{image}<figcaption><small>{text(path.name)}</small></figcaption></figure>")
    pictures = f'<div class="row">{"".join(shown)}</div>' if shown else ""
    return pictures + (line("not shown, too large or gone: " + ", ".join(named)) if named else "")


def picture(kind: str, content: bytes, name: str) -> str:
    """A picture with its bytes in the page.

    Args:
        kind: its MIME type.
        content: its bytes.
        name: what to call it (text).
    """
    address = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return f'<img src="{address}" alt="{text(name)}" title="{text(name)}">'


def is_image(path: str | Path) -> bool:
    """Whether a file is shown as a picture, by its name."""
    return Path(path).suffix.lower() in IMAGE_TYPES


def image_bytes(path: str | Path, limit: int) -> bytes | None:
    """Read a picture; `None` if it is no regular file, cannot be read or is larger than `limit` bytes."""
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            return None
        with Path(path).open("rb") as file:
            content = file.read(limit + 1)
    except OSError:
        return None
    return content if len(content) <= limit else None


def _colour(word: str) -> str:
    return _COLOURS.get(word, "#8a8a8a")
