"""Finding files below a folder, and writing reports."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmbagent.errors import ConfigurationError, MissingFileError

_ARXIV_ID = re.compile(r"([0-9]+\.[0-9]+(?:v[0-9]+)?)")


def below(folder: str | os.PathLike[str], suffixes: tuple[str, ...], max_depth: int) -> list[Path]:
    """List the files with one of some suffixes, sorted.

    Args:
        folder: where to look; `~` is expanded.
        suffixes: such as `.pdf`; case does not matter.
        max_depth: how many folders deep; 0 is the folder itself.

    Raises:
        MissingFileError: there is no such folder.
        ConfigurationError: it is no folder.
    """
    place = Path(folder).expanduser().resolve()
    if not place.exists():
        raise MissingFileError(
            f"there is no folder {place}; give one that holds {' or '.join(suffixes)} files"
        )
    if not place.is_dir():
        raise ConfigurationError(f"{place} is a file; expected the folder that holds it")
    found = (path for path in place.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in found if len(path.relative_to(place).parts) <= max_depth + 1)


def names(files: Sequence[Path]) -> dict[Path, str]:
    """Name what is made of each file: its name without the suffix, with its folder's where two are alike."""
    folded = [file.stem.casefold() for file in files]
    taken: dict[Path, str] = {}
    for file, name in zip(files, folded, strict=True):
        plain = file.stem if folded.count(name) == 1 else f"{file.parent.name}_{file.stem}"
        tried = (plain if number == 1 else f"{plain}_{number}" for number in itertools.count(1))
        known = {each.casefold() for each in taken.values()}
        taken[file] = next(each for each in tried if each.casefold() not in known)
    return taken


def existing(path: str | os.PathLike[str], what: str) -> Path:
    """Return a file's absolute path.

    Raises:
        MissingFileError: there is no such file.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise MissingFileError(f"there is no file {file}; give the path of {what}")
    return file


def arxiv_id(path: Path) -> str | None:
    """Return the arXiv number in a file's name, if there is one."""
    found = _ARXIV_ID.search(path.stem)
    return found.group(1) if found else None


def write_json(path: Path, value: Any) -> None:
    """Write JSON as people read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
