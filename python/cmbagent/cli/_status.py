"""The exit statuses of the command: one table, which help, documentation and code share."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How the command ended. `meaning` says it in words."""

    meaning: str

    DONE = 0, "done"
    FAILED = 1, "it failed, or a check of `doctor` did"
    USAGE = 2, "wrong usage: no such run, no key, a workflow that asks where nobody can answer"
    ENDED = 3, "stopped, cancelled, held by a phase, or waiting for an answer: it can be resumed"
    STORE = 4, "the store cannot be used, another process runs the run, or it was begun with something else"
    REQUEUE = 75, "ended by SIGTERM or SIGUSR1, or with its process: resume it"
    INTERRUPTED = 130, "Ctrl-C"

    def __new__(cls, number: int, meaning: str) -> Exit:
        """Make a status of its number and what it means."""
        made = int.__new__(cls, number)
        made._value_ = number
        made.meaning = meaning
        return made


_OF_RUNS = {"completed": Exit.DONE, "failed": Exit.FAILED, "interrupted": Exit.REQUEUE}


def of_run(status: str) -> Exit:
    """Return the exit status that tells of a run which ended so.

    Args:
        status: the run's, such as `completed`.
    """
    return _OF_RUNS.get(status, Exit.ENDED)


def epilog() -> str:
    """Write the table as one paragraph, for `--help`."""
    return "Exit status: " + "; ".join(f"{each.value} {each.meaning}" for each in Exit) + "."
