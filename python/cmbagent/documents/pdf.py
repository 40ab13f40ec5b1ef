"""The text of PDFs: read by Mistral's model for documents, or without a key by pypdf."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent.documents.files import below, existing, names, write_json
from cmbagent.errors import CmbagentError, ConfigurationError, MissingKeyError, RunStoppedError
from cmbagent.utils import resolve_work_dir
from cmbagent.workflows._helper import perform

if TYPE_CHECKING:
    from cmbagent._core import RunHandle

# "2.1 Observations", as a heading or as a line of its own.
_SECTION = re.compile(r"^(?:#{1,3}\s*)?(\d+\.(?:\d+)?)\s+([A-Z][A-Za-z\s]+)$")


def process_single_pdf(
    pdf_path: str | os.PathLike[str],
    save_markdown: bool = True,
    save_json: bool = True,
    save_text: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
    meta_data_path: str | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    callbacks: Any = None,
    *,
    api_keys: Any = None,
    verbose: bool | None = None,
) -> dict[str, Any]:
    """Read a PDF.

    With the key `MISTRAL` (or `MISTRAL_BASE_URL`) Mistral's model for documents reads it: tables and formulas
    come as Markdown, and the pages are billed. Without, pypdf takes its text, for which the extra
    `cmbagent[documents]` must be installed.

    Args:
        pdf_path: the file.
        save_markdown: write `<name>.md`.
        save_json: write `<name>_ocr.json`: what is returned.
        save_text: write `<name>.txt`.
        output_dir: where they go; else `<name>_processed` in `work_dir`, or beside the file.
        meta_data_path: kept for older programs; it was never read.
        work_dir: where the cost is noted, in `ocr_cost.json`.
        callbacks: see `cmbagent.callbacks`.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.

    Returns:
        A dict with `filename`, `num_pages`, `pages` (dicts of `page_num`, `text`, `markdown`), `sections`
        (dicts of `section_id`, `content`), `full_text`, `full_markdown`, and `cost_info`
        (`pages_processed`, `cost_usd` and more).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is neither a key nor pypdf, or the file cannot be read.
        CmbagentError: the service failed.
    """
    del meta_data_path
    pdf = existing(pdf_path, "a PDF")
    base = Path(resolve_work_dir(work_dir)) if work_dir is not None else None
    output = (
        Path(resolve_work_dir(output_dir)) if output_dir else (base or pdf.parent) / f"{pdf.stem}_processed"
    )

    async def work(run: RunHandle) -> dict[str, Any]:
        content = await read(run, pdf, pdf.stem)
        save(content, output, markdown=save_markdown, as_json=save_json, text=save_text)
        await report(run, [content], base)
        return content

    return perform(
        "process_single_pdf", "Text of a PDF", work, "Read a PDF", base or output,
        api_keys=api_keys, callbacks=callbacks, verbose=verbose,
    )  # fmt: skip


def process_folder(
    folder_path: str | os.PathLike[str],
    save_markdown: bool = True,
    save_json: bool = True,
    save_text: bool = False,
    output_dir: str | os.PathLike[str] | None = None,
    meta_data_path: str | None = None,
    max_depth: int = 10,
    max_workers: int = 4,
    work_dir: str | os.PathLike[str] | None = None,
    callbacks: Any = None,
    *,
    api_keys: Any = None,
    verbose: bool | None = None,
) -> dict[str, Any]:
    """Read all PDFs in a folder and the folders below; one that cannot be read stops no other.

    Args:
        folder_path: the folder.
        save_markdown: write `<name>.md` for each; of two PDFs of one name, `<folder>_<name>.md`.
        save_json: write `<name>_ocr.json` for each.
        save_text: write `<name>.txt` for each.
        output_dir: where they go; else `<folder>_processed` in `work_dir`, or beside the folder.
        meta_data_path: kept for older programs; it was never read.
        max_depth: how many folders deep to look.
        max_workers: how many are read at once.
        work_dir: where the cost is noted, in `ocr_cost.json`.
        callbacks: see `cmbagent.callbacks`.
        api_keys: as for `process_single_pdf`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.

    Returns:
        A dict with `processed_files`, `failed_files`, `output_directory`, `pdf_files` (paths) and `results`
        (dicts of `pdf_path`, `success`, `output_directory`, `num_pages`, `error`).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no folder.
    """
    del meta_data_path
    folder = Path(folder_path).expanduser().resolve()
    files = below(folder, (".pdf",), max_depth)
    base = Path(resolve_work_dir(work_dir)) if work_dir is not None else None
    output = (
        Path(resolve_work_dir(output_dir))
        if output_dir
        else (base or folder.parent) / f"{folder.name}_processed"
    )

    async def work(run: RunHandle) -> dict[str, Any]:
        return await read_all(
            run,
            names(files),
            output,
            base,
            max_workers,
            markdown=save_markdown,
            as_json=save_json,
            text=save_text,
        )

    return perform(
        "process_folder", "Texts of PDFs", work, "Read PDFs", base or output,
        api_keys=api_keys, callbacks=callbacks, verbose=verbose,
    )  # fmt: skip


async def read_all(
    run: RunHandle,
    files: Mapping[Path, str],
    output: Path,
    work_dir: Path | None,
    workers: int,
    **save_as: bool,
) -> dict[str, Any]:
    """Do what `process_folder` does, within a run; `files` have the names of what is made of them."""
    if workers < 1:
        raise ConfigurationError(f"max_workers={workers}: expected 1 or more")
    places = asyncio.Semaphore(workers)
    contents: list[dict[str, Any]] = []

    async def one(pdf: Path, name: str) -> dict[str, Any]:
        result: dict[str, Any] = {"pdf_path": str(pdf), "success": False, "output_directory": None}
        async with places:
            try:
                content = await read(run, pdf, name)
                save(content, output, **save_as)
            except RunStoppedError:
                raise
            except (CmbagentError, OSError) as error:
                return {**result, "num_pages": 0, "error": str(error)}
        contents.append(content)
        done = {"success": True, "output_directory": str(output), "num_pages": content["num_pages"]}
        return {**result, **done, "error": None}

    results = await asyncio.gather(*(one(pdf, name) for pdf, name in files.items()))
    await report(run, contents, work_dir)
    processed = sum(result["success"] for result in results)
    return {
        "processed_files": processed,
        "failed_files": len(results) - processed,
        "output_directory": str(output),
        "pdf_files": [str(pdf) for pdf in files],
        "results": results,
    }


async def read(run: RunHandle, pdf: Path, name: str) -> dict[str, Any]:
    """Read a PDF, by the model or else by pypdf; `name` is that of the result."""
    try:
        reading = await run.read_pdf(pdf)
    except MissingKeyError as missing:
        try:
            pages = await run.observe(f"text of {pdf}", lambda: _extract(pdf), thread=True)
        except ImportError:
            raise ConfigurationError(
                f"{pdf} cannot be read: {missing}. Or install pypdf, which needs no key: "
                "pip install 'cmbagent[documents]'"
            ) from missing
        reading = {"pages": pages, "pages_processed": 0, "doc_size_bytes": pdf.stat().st_size, "cost": 0.0}
    return _content(name, reading)


def _extract(pdf: Path) -> list[str]:
    from pypdf import PdfReader

    try:
        pages = [page.extract_text() for page in PdfReader(pdf).pages]
    except Exception as error:
        # A damaged file makes a reader stumble anywhere.
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{pdf} is no PDF that can be read: {reason}") from error
    if not any(page.strip() for page in pages):
        raise ConfigurationError(
            f"{pdf} holds pictures of pages and no text; a model has to read it: set MISTRAL_API_KEY"
        )
    return pages


def _content(name: str, reading: dict[str, Any]) -> dict[str, Any]:
    pages = reading["pages"]
    billed = reading["pages_processed"]
    whole = "\n\n".join(pages)
    return {
        "filename": name,
        "num_pages": len(pages),
        "pages": [{"page_num": n, "text": page, "markdown": page} for n, page in enumerate(pages, 1)],
        "sections": _sections(whole),
        "full_text": whole,
        "full_markdown": whole,
        "cost_info": {
            "filename": name,
            "pages_processed": billed,
            "doc_size_bytes": reading["doc_size_bytes"],
            "cost_usd": reading["cost"],
            "cost_per_page": reading["cost"] / billed if billed and reading["cost"] is not None else None,
            "timestamp": time.time(),
        },
    }


def _sections(text: str) -> list[dict[str, str]]:
    sections: list[dict[str, str]] = []
    for line in text.split("\n"):
        heading = _SECTION.match(line)
        if heading:
            sections.append(
                {"section_id": heading.group(1), "content": f"{heading.group(1)} {heading.group(2)}"}
            )
        elif sections:
            sections[-1]["content"] += f"\n{line}"
    return sections


def save(content: dict[str, Any], output: Path, *, markdown: bool, as_json: bool, text: bool) -> None:
    """Write what was read of a PDF."""
    output.mkdir(parents=True, exist_ok=True)
    name = content["filename"]
    if as_json:
        write_json(output / f"{name}_ocr.json", content)
    if markdown:
        head = f"# {name}\n\n**Pages:** {content['num_pages']}\n\n---\n\n"
        (output / f"{name}.md").write_text(head + content["full_markdown"], encoding="utf-8")
    if text:
        (output / f"{name}.txt").write_text(content["full_text"], encoding="utf-8")


async def report(run: RunHandle, contents: Sequence[dict[str, Any]], work_dir: Path | None) -> None:
    """Note what was billed: in `ocr_cost.json`, where earlier entries stay, and in a report of the run."""
    billed = [content["cost_info"] for content in contents if content["cost_info"]["pages_processed"]]
    if work_dir is None or not billed:
        return
    work_dir.mkdir(parents=True, exist_ok=True)
    file = work_dir / "ocr_cost.json"
    entries = [*_entries(file), *billed]
    known = [entry["cost_usd"] for entry in entries if entry.get("cost_usd") is not None]
    pages = sum(entry.get("pages_processed", 0) for entry in entries)
    write_json(
        file,
        {
            "total_pages_processed": pages,
            "total_cost_usd": sum(known),
            "cost_per_page": sum(known) / pages if pages else None,
            "entries": entries,
            "last_updated": time.time(),
        },
    )
    await run.report_costs(work_dir / "cost")


def _entries(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["entries"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no report of costs; move it away: {error!r}") from error
