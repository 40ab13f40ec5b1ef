"""Runs that are killed anywhere and go on."""

import contextlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crash import Undisturbed, survive

KILLS = 40


def test_a_run_killed_anywhere_ends_as_if_nobody_had_killed_it():
    """`make bench` does the same with 300 kills."""
    with contextlib.ExitStack() as stack:
        # In memory where the system has that: a process is killed here, not the machine.
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=shared)))
        whole = Undisturbed(place / "whole")
        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(lambda seed: survive(seed, place / str(seed), whole), range(KILLS)))
    # The kills fall everywhere: before the first call, between calls, inside them, after the last.
    assert len({each["finished"] for each in ended}) >= 5
    assert any(each["repeated"] for each in ended)
