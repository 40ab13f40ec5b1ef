"""The text of PDFs, under the module path that older programs import it from."""

from __future__ import annotations

from cmbagent.documents import process_folder, process_single_pdf

__all__ = ["process_folder", "process_single_pdf"]
