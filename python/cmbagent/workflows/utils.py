"""Plans and contexts on disk, and clearing a work directory."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from cmbagent.errors import ConfigurationError, MissingFileError, WorkDirError
from cmbagent.workflows.restore import load_pickle
from cmbagent.workflows.results import FinalContext


def load_plan(plan_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a plan.

    Args:
        plan_path: a JSON file such as `planning/final_plan.json`; `~` is expanded.

    Returns:
        The file's content: a dict with `sub_tasks`.

    Raises:
        MissingFileError: there is no such file.
        ConfigurationError: the file is no JSON.
    """
    path = Path(plan_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(
            f"there is no plan at {path}; give the path of a JSON file with 'sub_tasks'"
        ) from error
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ConfigurationError(f"the plan {path} is not valid JSON: {error}") from error


def plan_steps(plan: Any, source: str) -> list[dict[str, Any]]:
    """Return the steps of a plan.

    Args:
        plan: a dict with `sub_tasks`, or the list of steps itself.
        source: where it comes from, for the error.

    Raises:
        ConfigurationError: there are no steps in it, or a step lacks its sub-task.
    """
    steps = plan.get("sub_tasks") if isinstance(plan, dict) else plan
    if not isinstance(steps, list) or not steps:
        raise ConfigurationError(
            f"{source} holds no steps; expected {{'sub_tasks': [...]}} with 'sub_task', 'sub_task_agent' and "
            "'bullet_points' in each"
        )
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict) or not step.get("sub_task"):
            raise ConfigurationError(f"step {number} of {source} has no 'sub_task'")
    return steps


def load_context(context_path: str | os.PathLike[str]) -> Any:
    """Read the context a step left behind.

    Files of the original package can be read too, without it being installed. The file is data: nothing in
    it is executed.

    Args:
        context_path: a file such as `context/context_step_2.pkl`; `~` is expanded.

    Returns:
        The context as a dict with attribute `data`. Objects of other packages, such as a data frame,
        appear as `{"$opaque": "<type>"}`.

    Raises:
        MissingFileError: there is no such file.
        ConfigurationError: the file is damaged, or names something that could run code.
    """
    value = load_pickle(context_path)
    return FinalContext(value) if isinstance(value, dict) else value


def clean_work_dir(work_dir: str | os.PathLike[str]) -> None:
    """Delete everything in a directory and keep the directory; silent if there is none.

    Args:
        work_dir: the directory; links in it are removed, not followed.

    Raises:
        WorkDirError: it is the home directory, the root of a file system or a directory above the current
            one.
    """
    path = Path(work_dir).expanduser()
    if not path.is_dir():
        return
    place = path.resolve()
    if place in (Path.home().resolve(), Path(place.anchor)) or place in Path.cwd().parents:
        raise WorkDirError(f"refusing to empty {place}; give a directory that holds nothing but results")
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
