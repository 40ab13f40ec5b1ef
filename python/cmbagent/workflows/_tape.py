"""The tape of a run: where its model calls are recorded, or replayed from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from cmbagent.errors import ConfigurationError, MissingFileError


class Tape(NamedTuple):
    """What a caller said about tapes, checked.

    Attributes:
        record: absolute path of the file to be written, or `None`.
        replay: absolute path of the file to be read, or `None`.
        strict: whether a difference in a replay is an error.
    """

    record: str | None = None
    replay: str | None = None
    strict: bool = False

    @classmethod
    def of(
        cls,
        record: str | os.PathLike[str] | None,
        replay: str | os.PathLike[str] | None,
        strict: bool,
    ) -> Tape:
        """Check the arguments `record`, `replay` and `strict`.

        Raises:
            ConfigurationError: they do not go together.
            MissingFileError: there is no file to replay.
        """
        if record is not None and replay is not None:
            raise ConfigurationError(
                "record= and replay= exclude each other: a replay asks no model, so it has nothing to record"
            )
        if strict and replay is None:
            raise ConfigurationError("strict=True is about differences from a tape; give the tape as replay=")
        tape = cls(_absolute(record), _absolute(replay), bool(strict))
        if tape.replay is not None and not Path(tape.replay).is_file():
            raise MissingFileError(
                f"there is no tape {tape.replay}; give the file that an earlier run wrote with record="
            )
        return tape

    def keep_from(self, place: str) -> None:
        """Refuse that a directory is emptied in which the tape lies.

        Raises:
            ConfigurationError: it lies there.
        """
        root = Path(place).resolve()
        for path in (self.record, self.replay):
            if path is not None and Path(path).exists() and Path(path).resolve().is_relative_to(root):
                raise ConfigurationError(
                    f"clear_work_dir=True would delete the tape {path}; keep it outside of {place}"
                )


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    # The current directory may be another one when the run starts.
    return None if path is None else str(Path(path).expanduser().absolute())
