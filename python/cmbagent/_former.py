"""Names of earlier versions whose work is no longer done."""

from __future__ import annotations

import sys
import warnings
from typing import Any


def print_cmbagent_logo() -> None:
    """Print the package's name and version; nothing is shown at import any more."""
    from cmbagent import _core

    sys.stdout.write(f"cmbagent {_core.__version__}\n")


def make_rag_agents(make_new_rag_agents: Any = None) -> None:
    """Do nothing but say so: agents over vector stores are not part of this version.

    Args:
        make_new_rag_agents: the names of the agents wanted.
    """
    warnings.warn(
        f"make_rag_agents({make_new_rag_agents!r}) makes no agents: this version has no vector stores. "
        "Give documents to a run with preprocess_task(), or as text in the task",
        UserWarning,
        stacklevel=2,
    )
