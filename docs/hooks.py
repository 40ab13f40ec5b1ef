"""What the site says of the program is asked of the program: its verbs, exit statuses, public names."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

import cmbagent
from cmbagent.cli import _app


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is asked for into a page."""
    for mark, lines in (("names", names), ("statuses", statuses), ("verbs", verbs)):
        if (comment := f"<!-- {mark} -->") in markdown:
            markdown = markdown.replace(comment, "\n".join(lines()))
    return markdown


def names() -> Iterator[str]:
    """Yield the public names of the package, each a link to where it is described."""
    links = []
    for name in cmbagent.__all__:
        value = getattr(cmbagent, name)
        described = inspect.isclass(value) or inspect.isfunction(value)
        links.append(f"[`{name}`][{value.__module__}.{name}]" if described else f"`{name}`")
    yield ", ".join(links) + "."


def statuses() -> Iterator[str]:
    """Yield a table of the exit statuses: constants of the command and what they say of themselves."""
    yield from ("| status | |", "|---|---|", "| 0 | done |")
    body = ast.parse(inspect.getsource(_app)).body
    for constant, said in itertools.pairwise(body):
        match constant, said:
            case ast.Assign(value=ast.Constant(int(status))), ast.Expr(ast.Constant(str(text))):
                yield f"| {status} | {text.rstrip('.')} |"


def verbs() -> Iterator[str]:
    """Yield a section for each verb, with its help as the terminal shows it."""
    for name in get_command(_app.app).commands:  # type: ignore[attr-defined]
        shown = CliRunner().invoke(_app.app, [name, "--help"], env={"COLUMNS": "100"}, prog_name="cmbagent")
        yield f"### {name}\n\n```text\n{shown.output.strip()}\n```\n"
