"""The controlled vocabularies that keywords are chosen from.

Each is a file in `data`, whose first lines name its source and licence.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from importlib import resources

_UAT = "http://astrothesaurus.org/uat/"
# Names the editors of a classification put where nothing else fits; they say nothing about a text.
_LEFTOVERS = ("Other (specify)", "Other specialities")


@functools.cache
def unesco() -> Mapping[str, str]:
    """Return the UNESCO nomenclature: code → name (`12` a field, `1201` a discipline)."""
    return {code: name for code, name in _rows("unesco.tsv") if not name.startswith(_LEFTOVERS)}


def below(codes: Iterable[str]) -> dict[str, str]:
    """Return the next level of the UNESCO nomenclature below some codes: code → name."""
    above = tuple(codes)
    starts = tuple(code if len(code) == 2 else f"{code}." for code in above)
    length = {2: 4, 4: 7}.get(len(above[0]), 0) if above else 0
    return {code: name for code, name in unesco().items() if len(code) == length and code.startswith(starts)}


@functools.cache
def aas() -> Mapping[str, str]:
    """Return the keywords of the journals of the American Astronomical Society: keyword → address."""
    return {name: f"{_UAT}{number}" for number, name in _rows("aas.tsv")}


@functools.cache
def aaai() -> tuple[str, ...]:
    """Return the keywords of the AAAI conference."""
    return tuple(line for (line,) in _rows("aaai.txt"))


def chosen(answers: Iterable[str], among: Iterable[str]) -> tuple[list[str], list[str]]:
    """Find a model's answers in a vocabulary.

    Case and blanks do not matter, and a slip of the pen is put right; nothing outside the vocabulary passes.

    Args:
        answers: what the model named.
        among: the vocabulary.

    Returns:
        The keywords found, in the vocabulary's spelling, each once, and the answers that are not in it.
    """
    spelled = {_plain(name): name for name in among}
    found: dict[str, None] = {}
    strange: list[str] = []
    for answer in answers:
        plain = _plain(answer)
        near = [plain] if plain in spelled else difflib.get_close_matches(plain, spelled, n=1, cutoff=0.92)
        if near:
            found.setdefault(spelled[near[0]])
        else:
            strange.append(answer)
    return list(found), strange


def _plain(name: str) -> str:
    return " ".join(name.replace("\\&", "&").strip(" -*\"'").casefold().split())


def _rows(name: str) -> Iterable[list[str]]:
    text = resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
