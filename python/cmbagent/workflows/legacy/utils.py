"""Loaders and cleaner under their former backup path."""

from __future__ import annotations

from cmbagent.workflows.utils import clean_work_dir, load_context, load_plan

__all__ = ["clean_work_dir", "load_context", "load_plan"]
