"""Papers as context: downloads from arXiv, the text of PDFs, summaries, and a task that knows of them."""

from __future__ import annotations

from cmbagent.documents.arxiv import arxiv_filter
from cmbagent.documents.pdf import process_folder, process_single_pdf
from cmbagent.documents.preprocess import preprocess_task
from cmbagent.documents.summary import summarize_document, summarize_documents

__all__ = [
    "arxiv_filter",
    "preprocess_task",
    "process_folder",
    "process_single_pdf",
    "summarize_document",
    "summarize_documents",
]
