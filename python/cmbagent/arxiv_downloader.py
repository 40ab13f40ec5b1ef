"""Papers of arXiv, under the module path that older programs import it from."""

from __future__ import annotations

from cmbagent.documents import arxiv_filter

__all__ = ["arxiv_filter"]
