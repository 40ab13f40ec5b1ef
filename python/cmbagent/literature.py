"""References for a LaTeX file: papers of arXiv that somebody names for a paragraph become citations."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent.documents import arxiv
from cmbagent.documents.files import existing
from cmbagent.errors import BadReplyError, DownloadError
from cmbagent.workflows._helper import perform

if TYPE_CHECKING:
    from cmbagent._core import RunHandle

Search = Callable[[str], tuple[str | None, Sequence[str]]]

# Environments whose lines are prose.
_PROSE = frozenset({"document", "abstract", "quote", "quotation"})
_EDGE = re.compile(r"\\(begin|end)\{([^}]+)\}")
# Commands that begin a line which is no prose.
_COMMAND = re.compile(
    r"\\(?:documentclass|usepackage|newcommand|(?:sub)*section|title|author|affiliation|keywords|label|caption"
    r"|ref|bibliography|centering|includegraphics|item)"
)
_FORMULA = re.compile(r"(?:\$.*\$|\\\[.*\\\])$")
# An optional argument, such as that of \citep[1]{…}, is no marker.
_MARKERS = re.compile(r"(?P<argument>\\[A-Za-z]+\*?(?:\[[^\]]*\])+)|[ ]*(?P<markers>(?:\[\d+\])+)")
_KEY = re.compile(r"@\w+\{\s*([^,\s]+)\s*,")
_TRIES = 2


def process_tex_file_with_references(
    fname_tex: str | os.PathLike[str],
    fname_bib: str | os.PathLike[str],
    perplexity: Search,
    nparagraphs: int | None = None,
    *,
    callbacks: Any = None,
    verbose: bool | None = None,
) -> None:
    r"""Put citations into a LaTeX file, and write the bibliography they need.

    Every line of prose is a paragraph; the first, mostly the abstract, stays as it is, and so do headings,
    figures, tables, formulas and lists. Markers such as `[1][2]` become `\citep{…}`, the oldest paper first.
    The entries come from arXiv, or from the mirror that `ARXIV_BASE_URL` names. A marker whose paper has no
    entry is left out, with a warning.

    Args:
        fname_tex: the file; it is written over.
        fname_bib: the bibliography; it is written over.
        perplexity: gets a paragraph, and returns it with markers, and the addresses at arXiv that `[1]`,
            `[2]`, … stand for. When it returns `None` for the paragraph twice, that one stays as it is.
        nparagraphs: the most paragraphs to ask about.
        callbacks: see `cmbagent.callbacks`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.

    Raises:
        FileNotFoundError: there is no such LaTeX file.
        CmbagentError: `perplexity` did not return a paragraph and its addresses.
    """
    tex, bib = existing(fname_tex, "a LaTeX file"), Path(fname_bib).expanduser().resolve()
    lines = tex.read_text(encoding="utf-8").splitlines(keepends=True)
    places = list(_paragraphs(lines))[1:]

    async def work(run: RunHandle) -> list[str]:
        with tempfile.TemporaryDirectory(prefix="cmbagent-") as scratch:
            library = _Library(run, Path(scratch))
            for place in places[:nparagraphs]:
                said = await _asked(run, perplexity, place, lines[place])
                if said is not None:
                    end = "\n" if lines[place].endswith("\n") else ""
                    lines[place] = _cited(said[0].rstrip("\n"), await library.keys(said[1])) + end
        bib.parent.mkdir(parents=True, exist_ok=True)
        bib.write_text("\n\n".join(library.entries.values()) + "\n", encoding="utf-8")
        tex.write_text("".join(lines), encoding="utf-8")
        return library.troubles

    troubles = perform(
        "process_tex_file_with_references", "References of a paper", work, "Find references", tex.parent,
        api_keys={}, callbacks=callbacks, verbose=verbose,
    )  # fmt: skip
    for trouble in troubles:
        warnings.warn(f"process_tex_file_with_references goes on without: {trouble}", stacklevel=2)


class _Library:
    """Entries of BibTeX, each fetched once."""

    def __init__(self, run: RunHandle, scratch: Path) -> None:
        self._run, self._scratch = run, scratch
        self._known: dict[str, str | None] = {}
        self.entries: dict[str, str] = {}
        self.troubles: list[str] = []

    async def keys(self, addresses: Sequence[str]) -> list[str | None]:
        """Return the key of each address; `None` where there is no entry."""
        return [await self._key(address) for address in addresses]

    async def _key(self, address: str) -> str | None:
        number = next(iter(arxiv.links(address).values()), None)
        if number is None:
            self.troubles.append(f"{address}, which is no paper of arXiv")
            return None
        if number not in self._known:
            self._known[number] = await self._fetch(number)
        return self._known[number]

    async def _fetch(self, number: str) -> str | None:
        file = self._scratch / f"{len(self._known)}.bib"
        try:
            fetched = await self._run.download(f"{arxiv.base()}/bibtex/{number}", file)
        except DownloadError as error:
            self.troubles.append(str(error))
            return None
        entry = file.read_text(encoding="utf-8", errors="replace").strip()
        key = _KEY.match(entry)
        if key is None:
            self.troubles.append(f"{fetched['url']}, which holds no entry of BibTeX")
            return None
        self.entries[key.group(1)] = entry
        return key.group(1)


async def _asked(
    run: RunHandle, perplexity: Search, place: int, paragraph: str
) -> tuple[str, list[str]] | None:
    for _ in range(_TRIES):
        answer = await run.observe(f"references of line {place + 1}", lambda: perplexity(paragraph))
        try:
            text, addresses = answer
            if text is not None:
                return str(text), [str(address) for address in addresses or ()]
        except (TypeError, ValueError):
            raise BadReplyError(
                f"perplexity returned a {type(answer).__name__} for line {place + 1}; expected the paragraph "
                "with markers, and a list of addresses"
            ) from None
    return None


def _paragraphs(lines: Sequence[str]) -> Iterator[int]:
    """Give the indexes of the lines that are prose."""
    # Without a preamble the file is a part of another.
    inside = ["preamble"] if any(r"\begin{document}" in line for line in lines) else []
    for index, raw in enumerate(lines):
        line = raw.strip()
        if not line or line.startswith("%"):
            continue
        edges = _EDGE.findall(line)
        for edge, name in edges:
            if edge == "begin":
                inside = [] if name == "document" else [*inside, name.rstrip("*")]
            elif inside:
                inside.pop()
        prose = set(inside) <= _PROSE and not edges
        if prose and not _COMMAND.match(line) and not _FORMULA.match(line):
            yield index


def _cited(paragraph: str, keys: Sequence[str | None]) -> str:
    def citation(found: re.Match[str]) -> str:
        if found["argument"]:
            return found[0]
        numbers = [int(number) for number in re.findall(r"\d+", found["markers"])]
        wanted = [keys[number - 1] for number in numbers if 0 < number <= len(keys)]
        if not wanted:
            return found[0]
        known = sorted({key for key in wanted if key}, key=lambda key: (_year(key), wanted.index(key)))
        return rf" \citep{{{','.join(known)}}}" if known else ""

    return _MARKERS.sub(citation, paragraph)


def _year(key: str) -> int:
    year = re.search(r"\d{4}", key)
    return int(year.group()) if year else 9999
