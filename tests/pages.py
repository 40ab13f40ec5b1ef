"""Pages of Markdown as programs: the blocks of a page run from its top to its end, in one directory.

Blocks of Python share their names and may await; blocks of bash are scripts of their own. A block `text` is
what the block before it prints, `…` standing for anything. JSON and TOML are parsed. A fence without a
language is a figure. What cannot run has `<!-- not run: reason -->` above it.

    python tests/pages.py docs/limits.md        # in the directory where it is to happen
"""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("README.md", "docs/**/*.md", "python/cmbagent/**/*.py")
LANGUAGES = {"", "bash", "json", "python", "text", "toml"}
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: (.+?) -->\s*\Z")
EXAMPLE = re.compile(r'--8<-- "(examples/\w+\.py)"\n')
# The addresses of readers' own servers, and the variable that has the address to be used here.
ADDRESSES = {
    "http://localhost:11434/v1": "OPENAI_BASE_URL",
    "http://localhost:8000/v1": "OPENAI_BASE_URL",
    "http://localhost:8080/v1": "OPENAI_BASE_URL",
    "http://localhost:8000": "REST_URL",
}
# What would reach out of here: pip and make look up what they are asked for, a batch system is this machine.
PRELUDE = r"""
pip() {
  for extra in $(grep -o '\[.*\]' <<<"$*" | tr -d '[]' | tr , ' '); do
    grep -q "^$extra = " "$ROOT/pyproject.toml"
  done
}
make() { grep -q "^$1:" "$ROOT/Makefile"; }
srun() { "$@"; }
scontrol() { false; }
"""
# A server that is left running.
SERVE = r"""
cmbagent() {
  if [ "$1" != serve ]; then command cmbagent "$@"; return; fi
  command cmbagent "$@" --port "${REST_URL##*:}" >serve.log 2>&1 &
  for _ in {1..300}; do curl -sf "$REST_URL/api/health" >/dev/null && return; sleep 0.1; done
  cat serve.log >&2; return 1
}
"""


@dataclass
class Block:
    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self):
        return f"{self.page}:{self.line}"


def text_of(page):
    """A page's Markdown; of a module it is the docstring."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "") if page.endswith(".py") else text


def pages():
    """All that may have blocks: the README, the documentation, and modules whose docstrings are in it."""
    found = (str(path.relative_to(ROOT)) for each in SOURCES for path in ROOT.glob(each))
    return sorted(page for page in found if page.endswith(".md") or "```" in text_of(page))


def blocks(page):
    """The blocks of a page, in order."""
    source = text_of(page)
    found = []
    for fence in FENCE.finditer(source):
        indent, language, text = fence.groups()
        mark = MARK.search(source, 0, fence.start())
        line = source.count("\n", 0, fence.start()) + 1
        text = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        found.append(Block(page, line, language, text, mark and mark[1]))
    assert 2 * len(found) == len(re.findall(r"^ *(?:```|~~~)", source, re.MULTILINE)), (
        f"{page}: a lonely fence"
    )
    return found


def run(page):
    """Run the blocks of a page; fail at the first that fails or prints something else."""
    names = {"__name__": "__main__"}
    printed = None
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if block.language == "text":
                assert printed is not None, f"{block}: the block above it is not run"
                assert matches(block.text, printed), f"{block}: expected\n{block.text}\nprinted\n{printed}"
            printed = perform(block, names, runner) if block.language in ("python", "bash") else None


def perform(block, names, runner):
    """Run one block of a program and return what it prints, `None` of one that is not run."""
    if block.not_run:
        return None
    if example := EXAMPLE.fullmatch(block.text):
        return shell(block, f"CMBAGENT_QUIET=1 python {example[1]} --offline")
    text = block.text
    for address, variable in ADDRESSES.items():
        text = text.replace(address, os.environ[variable])
    if block.language == "bash":
        return shell(block, text)
    code = compile_at(block, text)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, names))
        else:
            exec(code, names)
    return printed.getvalue()


def compile_at(block, text):
    """Compile a block so that a traceback names its page and lines."""
    return compile("\n" * block.line + text, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def shell(block, text):
    """Run a script of bash; each line has to succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "CMBAGENT_QUIET"}
    prelude = PRELUDE + SERVE * ("cmbagent serve" in text)
    command = ["bash", "-euo", "pipefail", "-c", prelude + text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def matches(expected, printed):
    """Whether a text was printed, `…` standing for anything."""
    pieces = (re.escape(piece) for piece in clean(expected).split("…"))
    return re.fullmatch(".*?".join(pieces), clean(printed), re.DOTALL)


def clean(text):
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def check(block):
    """Check what need not be run to be seen: its language, its form, its syntax."""
    assert block.language in LANGUAGES, f"{block}: mark it as one of {sorted(LANGUAGES)}"
    {"json": json.loads, "toml": tomllib.loads}.get(block.language, str)(block.text)
    if block.language == "python" and not EXAMPLE.fullmatch(block.text):
        compile_at(block, block.text)
    if block.language == "bash":
        subprocess.run(["bash", "-n", "-c", block.text], check=True)


if __name__ == "__main__":
    run(sys.argv[1])
