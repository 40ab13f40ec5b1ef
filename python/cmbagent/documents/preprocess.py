"""A task that links to papers, with what the papers say."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent.documents import arxiv, pdf, summary
from cmbagent.documents.files import below, names
from cmbagent.errors import CmbagentError, RunStoppedError
from cmbagent.utils import default_agents_llm_model
from cmbagent.workflows._calls import prepare_work_dir
from cmbagent.workflows._helper import perform

if TYPE_CHECKING:
    from cmbagent._core import RunHandle

_MODELS = default_agents_llm_model
_HEADING = "## Contextual Information and References"


def preprocess_task(
    text: str,
    work_dir: str | os.PathLike[str] | None = None,
    clear_work_dir: bool = False,
    max_workers: int = 4,
    max_depth: int = 10,
    summarizer_model: str = _MODELS["summarizer"],
    summarizer_response_formatter_model: str = _MODELS["summarizer_response_formatter"],
    skip_arxiv_download: bool = False,
    skip_ocr: bool = False,
    skip_summarization: bool = False,
    callbacks: Any = None,
    *,
    clear_work_dir_flag: bool = False,
    api_keys: Any = None,
    verbose: bool | None = None,
) -> str:
    """Add to a task what the papers say that it links to.

    Papers of arXiv are downloaded into `docs`, their text goes into `docs_processed`, summaries into
    `summaries`, and the text that is returned into `enhanced_input.md`.

    Args:
        text: the task.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        clear_work_dir: `True` deletes the contents of `work_dir` first.
        max_workers: how many papers are read, or summarised, at once.
        max_depth: how many folders deep to look for papers.
        summarizer_model: the model that summarises.
        summarizer_response_formatter_model: kept for older programs; nothing is formatted by a model.
        skip_arxiv_download: use the papers that are in `docs` already.
        skip_ocr: use the texts that are in `docs_processed` already.
        skip_summarization: leave the task as it is, once the texts are there.
        callbacks: see `cmbagent.callbacks`.
        clear_work_dir_flag: another name for `clear_work_dir`.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.

    Returns:
        The task, followed by a section of the papers; the task as it was when it links to none. What
        failed is told in a warning, and the task goes on without it.
    """
    del summarizer_response_formatter_model
    place = Path(prepare_work_dir(work_dir, clear_work_dir or clear_work_dir_flag))
    docs, texts = place / "docs", place / "docs_processed"

    async def work(run: RunHandle) -> tuple[str, list[str]]:
        troubles: list[str] = []
        if not skip_arxiv_download:
            found = await arxiv.download(run, text, place)
            troubles += [failed["error"] for failed in found["failed_downloads"]]
            if not found["arxiv_ids"]:
                return text, troubles
        if not skip_ocr and docs.is_dir():
            papers = names(below(docs, (".pdf",), max_depth))
            papers = {
                paper: name for paper, name in papers.items() if not _is_read(paper, texts / f"{name}.md")
            }
            read = await pdf.read_all(
                run, papers, texts, place, max_workers,
                markdown=True, as_json=False, text=False,
            )  # fmt: skip
            troubles += [result["error"] for result in read["results"] if result["error"]]
        if skip_summarization or not texts.is_dir():
            return text, troubles
        files = below(texts, (".md", ".markdown"), max_depth)
        done = await summary.summarize_all(
            run, texts, files, place / "summaries", summarizer_model, max_workers
        )
        troubles += [result["error"] for result in done["results"] if not result["success"]]
        said = [_entry(result) for result in done["results"] if result["success"]]
        if not said:
            return text, troubles
        whole = f"{text}\n\n{_HEADING}\n" + "\n".join(said)
        (place / "enhanced_input.md").write_text(whole, encoding="utf-8")
        return whole, troubles

    try:
        whole, troubles = perform(
            "preprocess_task", "Papers of the task", work, text, place,
            api_keys=api_keys, callbacks=callbacks, verbose=verbose,
        )  # fmt: skip
    except RunStoppedError:
        raise
    except (CmbagentError, OSError) as error:
        whole, troubles = text, [str(error)]
    for trouble in troubles:
        warnings.warn(f"preprocess_task goes on without: {trouble}", UserWarning, stacklevel=2)
    return whole


def _is_read(paper: Path, text: Path) -> bool:
    """Whether the text of a paper is there already: reading may be billed."""
    return text.exists() and text.stat().st_mtime >= paper.stat().st_mtime


def _entry(paper: dict[str, Any]) -> str:
    said = paper["document_summary"]
    number = f" (arXiv:{paper['arxiv_id']})" if paper["arxiv_id"] else ""
    lines = [
        f"\n**{said['title'] or paper['filename']}{number}**",
        f"- Authors: {', '.join(said['authors']) or 'not named'}",
        f"- Date: {said['date'] or 'not given'}",
        f"- Keywords: {', '.join(said['keywords']) or 'none'}",
        f"- Abstract: {said['abstract'] or 'none'}",
    ]
    if said["key_findings"]:
        lines += ["- Key Findings:", *(f"  • {finding}" for finding in said["key_findings"])]
    return "\n".join(lines)
