"""Which manager a workflow gets that was given none."""

from __future__ import annotations

import os
import sys
from typing import Any

from cmbagent.approvals.auto import AutoApprovalManager
from cmbagent.approvals.console import ConsoleApprovalManager, running_kernel
from cmbagent.approvals.queue import QueueApprovalManager
from cmbagent.errors import ConfigurationError

VARIABLE = "CMBAGENT_HITL"
"""The environment variable that decides."""


def default_manager() -> Any:
    """Return the manager of a workflow that was given none.

    The environment variable `CMBAGENT_HITL` decides: `ask` asks at the terminal or notebook, `queue` waits
    for an answer from elsewhere, such as `cmbagent approve`, and `approve` and `reject` answer so. Unset, an
    interactive terminal or notebook is asked.

    Returns:
        The manager; `None` when nobody can be asked: checkpoints then approve themselves and say so.

    Raises:
        ConfigurationError: the variable holds another word.
    """
    word = os.environ.get(VARIABLE, "").strip().lower()
    if word in ("approve", "reject"):
        return AutoApprovalManager(word)
    if word == "ask":
        return ConsoleApprovalManager()
    if word == "queue":
        return QueueApprovalManager()
    if word:
        raise ConfigurationError(f"{VARIABLE}={word!r} is not known; expected ask, queue, approve or reject")
    return ConsoleApprovalManager() if is_interactive() else None


def is_interactive() -> bool:
    """Return whether someone sits at this process who can answer: at a notebook or in a terminal.

    Test runs and continuous integration never count, nor does a job in the background of a shell, which
    reading from the terminal would stop.
    """
    unattended = os.environ.get("CI", "").lower() not in ("", "0", "false")
    if unattended or os.environ.get("PYTEST_CURRENT_TEST"):
        return False
    kernel = running_kernel()
    if kernel is not None:
        # Kernels that run notebooks unattended do not take input.
        return bool(getattr(kernel, "_allow_stdin", False))
    try:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return False
        return not hasattr(os, "tcgetpgrp") or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no stdin, a closed one, or one that is no file
        return False
