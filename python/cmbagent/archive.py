"""A run as one file: for a colleague, a referee, a bug report.

The file is a zip of `run.json` (what the run was begun with, how it stands, versions, hashes of prompts),
`records.jsonl` (its journal), `timeline.json` (what happened, with costs), `tape.jsonl` (its models' replies,
see `docs/replay.md`) and `files/` (plan, scripts, data, texts). No key is in it: what looks like one is
blacked out in records, and files that hold one are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from cmbagent import _core
from cmbagent._timeline import timeline
from cmbagent._timeline_page import page
from cmbagent.errors import ConfigurationError, JournalError, WorkDirError
from cmbagent.store import RunInfo, Store, real
from cmbagent.utils import API_KEY_VARIABLES

FORMAT = 1
"""The version of the format; a reader refuses what is newer."""

MAX_ENTRIES = 100_000
"""A file with more entries is refused."""

_DIRECTORIES = (
    "planning",
    "control",
    "context",
    "codebase",
    "data",
    "chats",
    "time",
    "cost",
    "attempts",
    "logs",
)
"""What runs make in their work directories."""

_KEY = re.compile(rb"\bsk-[A-Za-z0-9_-]{16,}|\bAIza[A-Za-z0-9_-]{20,}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def export_run(
    store: Store, run_id: str, out: str | os.PathLike[str], *, max_file_bytes: int = 100_000_000
) -> dict[str, str]:
    """Write a run to a file.

    Args:
        store: where the run is kept.
        run_id: its id, or the beginning of it.
        out: the file to make; it must not be there.
        max_file_bytes: larger files of the run are left out.

    Returns:
        What was left out: path in the work directory → why.

    Raises:
        ConfigurationError: there is no such run, or `out` is there.
        JournalError: the run's records cannot be read.
        OSError: the file cannot be written.
    """
    info = store.run(run_id)
    target = Path(out).expanduser()
    if target.exists():
        raise ConfigurationError(f"{target} is there already and is not written over; name another file")
    story = timeline(store, info.id)
    secrets = [
        key.encode() for name in API_KEY_VARIABLES.values() if len(key := os.environ.get(name, "")) > 5
    ]
    left_out: dict[str, str] = {}
    part = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            records = store.records(info.id)
            archive.writestr("records.jsonl", _lines(records, secrets))
            archive.writestr("tape.jsonl", _tape(info, records, secrets))
            archive.writestr("timeline.json", _text(story, secrets))
            for name, path in _files(info, story["files"], left_out):
                _add(archive, name, path, max_file_bytes, secrets, left_out)
            archive.writestr("run.json", _text(_head(info, left_out), secrets))
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return left_out


def import_run(
    store: Store,
    file: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    max_bytes: int = 2_000_000_000,
) -> RunInfo:
    """Take in a run that `export_run` wrote. It can be shown and its tape replayed; it is never resumed.

    Args:
        store: where it is to be kept.
        file: the file.
        to: a directory for the run's files, which must be new or empty; `None` makes `cmbagent_<id>` here.
        max_bytes: what is larger when unpacked is refused.

    Returns:
        The run.

    Raises:
        ConfigurationError: it is no such file, is too large, or has names that lead out of the directory.
        JournalError: the store has the run already, or its records cannot be read.
        WorkDirError: `to` has something in it.
        OSError: the file cannot be read, or its content cannot be written.
    """
    source = Path(file).expanduser()
    try:
        with zipfile.ZipFile(source) as archive:
            entries = _checked(archive, source, max_bytes)
            head = _read_head(archive, source, max_bytes)
            run = head["run"]
            target = Path(real(to if to is not None else f"cmbagent_{run['id'][:8]}"))
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise WorkDirError(f"{target} is not empty; name a new directory for the run's files")
            records = _read(archive, "records.jsonl", max_bytes).decode().splitlines()
            row = {name: run[name] for name in ("id", "status", "usage", "created", "updated")}
            about = {**run["about"], "imported": True, "exported_from": run["work_dir"]}
            unpacked = target.with_name(f".{target.name}.part")
            try:
                _unpack(archive, entries, unpacked, max_bytes)
                store._core.take_in(json.dumps({**row, "about": about, "work_dir": str(target)}), records)
                try:
                    _try_out(store, run["id"])
                    if target.exists():
                        target.rmdir()
                    unpacked.replace(target)
                except BaseException:
                    store.delete(run["id"])
                    raise
            finally:
                shutil.rmtree(unpacked, ignore_errors=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ConfigurationError(
            f"{source} is no file of `cmbagent export`, or is damaged: {error}"
        ) from None
    except (KeyError, TypeError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise ConfigurationError(
            f"{source} is no file of `cmbagent export`: {type(error).__name__}: {error}"
        ) from None
    return store.run(run["id"])


def _head(info: RunInfo, left_out: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "cmbagent": _core.__version__,
        "python": platform.python_version(),
        "exported": time.time(),
        "run": {
            "id": info.id,
            "status": info.status,
            "usage": info.usage,
            "created": info.created,
            "updated": info.updated,
            "work_dir": info.work_dir,
            "about": info.about,
        },
        "prompts": _core.prompt_hashes(),
        "left_out": left_out,
    }


def _hidden(value: Any, secrets: list[bytes]) -> Any:
    """Black out what looks like a key."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret.decode(), "[redacted]")
        return _core.redact(value)
    if isinstance(value, dict):
        return {_hidden(name, secrets): _hidden(item, secrets) for name, item in value.items()}
    return [_hidden(item, secrets) for item in value] if isinstance(value, list) else value


def _text(value: Any, secrets: list[bytes]) -> str:
    return json.dumps(_hidden(value, secrets), ensure_ascii=False, indent=2)


def _lines(values: list[Any], secrets: list[bytes]) -> str:
    return "".join(json.dumps(_hidden(each, secrets)) + "\n" for each in values)


def _tape(info: RunInfo, records: list[dict[str, Any]], secrets: list[bytes]) -> str:
    """Write what the models were asked and answered, as recording the run would have."""
    sent: dict[tuple[int, ...], dict[str, Any]] = {}
    calls = []
    for record in records:
        entry, place = record["entry"], tuple(record["position"].values())
        if entry["entry"] == "started" and entry["effect"] == "call":
            sent[place] = entry["about"]
        elif entry["entry"] == "finished" and entry["effect"] == "call" and place in sent:
            said = entry["output"]["said"]
            call = {"place": sent[place]["place"], "request": sent[place]["request"], **said}
            calls.append(json.dumps(_hidden(call, secrets)))
    return _core.tape_of(info.id, info.workflow_id, info.task, info.work_dir, calls)


def _files(info: RunInfo, known: list[str], left_out: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """Find the run's files below its work directory, each once."""
    root = Path(info.work_dir)
    paths = {Path(path) for path in known}
    for name in _DIRECTORIES:
        for place, directories, names in os.walk(root / name):
            directories[:] = [d for d in directories if not d.startswith(".") and d != "__pycache__"]
            paths |= {Path(place, each) for each in names if not each.startswith(".")}
    for path in sorted(paths):
        with contextlib.suppress(ValueError):  # what lies elsewhere is not the run's own
            name = path.relative_to(root).as_posix()
            if path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
                left_out[name] = "a link"
            elif path.is_file():
                yield name, path


def _add(
    archive: zipfile.ZipFile,
    name: str,
    path: Path,
    max_bytes: int,
    secrets: list[bytes],
    left_out: dict[str, str],
) -> None:
    size = path.stat().st_size
    if size > max_bytes:
        left_out[name] = f"{size / 1e6:.1f} MB"
        return
    content = path.read_bytes()
    if _KEY.search(content) or any(secret in content for secret in secrets):
        left_out[name] = "it holds what looks like a key"
        return
    archive.writestr(f"files/{name}", content)


def _checked(archive: zipfile.ZipFile, source: Path, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The files of a run by their paths, all of which stay below the directory they are unpacked to."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise ConfigurationError(
            f"{source} has {len(entries):,} entries; at most {MAX_ENTRIES:,} are taken in"
        )
    size = sum(entry.file_size for entry in entries)
    if size > max_bytes:
        raise _too_large(size, max_bytes)
    files: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.orig_filename
        if not name.startswith("files/") or entry.is_dir():
            continue
        inner = name.removeprefix("files/")
        parts = PurePosixPath(inner).parts
        escapes = not parts or inner.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", inner)
        if escapes or stat.S_ISLNK(entry.external_attr >> 16):
            raise ConfigurationError(
                f"{source} has an entry {name!r} that leads out of the run's directory: nothing was taken in"
            )
        path = "/".join(parts)
        if path in files:
            raise ConfigurationError(f"{source} has two entries {name!r}: nothing was taken in")
        files[path] = entry
    return files


def _too_large(size: int, max_bytes: int) -> ConfigurationError:
    return ConfigurationError(
        f"the run takes {size / 1e6:,.0f} MB or more when unpacked, and at most {max_bytes / 1e6:,.0f} MB "
        "are allowed; allow more with --max-mb if you trust it"
    )


def _read(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    with archive.open(name) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _too_large(len(content), max_bytes)
    return content


def _read_head(archive: zipfile.ZipFile, source: Path, max_bytes: int) -> dict[str, Any]:
    head = json.loads(_read(archive, "run.json", max_bytes))
    if head["format"] > FORMAT:
        raise ConfigurationError(
            f"{source} has format {head['format']}, this version reads up to {FORMAT}; update cmbagent"
        )
    run, about = head["run"], head["run"]["about"]
    texts = (run["id"], run["status"], run["work_dir"], about["task"], about["workflow"]["id"])
    if not all(isinstance(text, str) for text in texts) or not _ID.fullmatch(run["id"]):
        raise TypeError("run.json does not describe a run")
    return dict(head)


def _unpack(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], to: Path, max_bytes: int) -> None:
    to.mkdir(parents=True)
    left = max_bytes
    for name, entry in entries.items():
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as stream, path.open("xb") as out:
            # What an archive says of its sizes need not be so.
            while piece := stream.read(1 << 20):
                left -= len(piece)
                if left < 0:
                    raise _too_large(max_bytes - left, max_bytes)
                out.write(piece)


def _try_out(store: Store, run_id: str) -> None:
    """Refuse records that cannot be shown."""
    try:
        list(page(store.run(run_id), timeline(store, run_id)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"the records of run {run_id} are not what cmbagent writes ({type(error).__name__}): "
            "nothing was taken in"
        ) from None
