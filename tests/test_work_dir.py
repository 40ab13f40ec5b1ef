"""Loading plans, and what may be deleted."""

import json
import warnings
from pathlib import Path

import pytest

from cmbagent import clean_work_dir, load_plan
from cmbagent.errors import ConfigurationError, MissingFileError, WorkDirError
from cmbagent.workflows import _calls
from cmbagent.workflows.utils import plan_steps

STEPS = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["b"]}]


@pytest.fixture
def used(tmp_path):
    """A work directory with a file, a directory and a link to something outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    (work / "data" / "f").write_text("x")
    (work / "link").symlink_to(outside)
    return work


def test_clean_work_dir(used):
    clean_work_dir(str(used))
    assert list(used.iterdir()) == []
    assert (used.parent / "outside" / "precious").exists()
    clean_work_dir(used / "not there")


def test_clean_refuses_precious_places(monkeypatch, used):
    monkeypatch.setenv("HOME", str(used))
    with pytest.raises(WorkDirError, match="refusing to empty"):
        clean_work_dir("~")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.chdir(used / "data")
    with pytest.raises(WorkDirError, match="refusing to empty"):
        clean_work_dir(used)
    with pytest.raises(OSError, match="refusing to empty /;"):
        clean_work_dir("/")
    assert (used / "data" / "f").exists()


@pytest.mark.parametrize("clear", [False, None, 1, "yes"])
def test_only_true_deletes(used, clear):
    assert _calls.prepare_work_dir(used, clear) == str(used)
    assert (used / "data" / "f").exists()


def test_prepare_work_dir(used, monkeypatch):
    assert _calls.prepare_work_dir(used, True) == str(used)
    assert list(used.iterdir()) == []
    assert Path(_calls.prepare_work_dir(used / "a" / "b", False)).is_dir()
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        _calls.prepare_work_dir(used, True, restart_at_step=1)
    (used / "file").write_text("")
    with pytest.raises(WorkDirError, match="cannot be made"):
        _calls.prepare_work_dir(used / "file" / "x", False)


def test_load_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "plan.json").write_text(json.dumps({"sub_tasks": STEPS}))
    assert load_plan("~/plan.json") == {"sub_tasks": STEPS}
    with pytest.raises(MissingFileError, match="there is no plan at"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigurationError, match="not valid JSON"):
        load_plan(tmp_path / "bad.json")


def test_plan_steps():
    assert plan_steps({"sub_tasks": STEPS}, "it") is plan_steps(STEPS, "it") is STEPS
    for bad in ({}, [], {"sub_tasks": None}, "text", None):
        with pytest.raises(ConfigurationError, match="it holds no steps"):
            plan_steps(bad, "it")
    with pytest.raises(ConfigurationError, match="step 2 of it has no 'sub_task'"):
        plan_steps([STEPS[0], {"agent": "x"}], "it")


def test_set_aside():
    def f(task, colour=None):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _calls.set_aside(f, {}, {"a"})
    with pytest.warns(UserWarning, match=r"^f\(\) ignores a, b:") as caught:
        _calls.set_aside(f, {"b": 1, "a": 2}, {"a", "b"})
    assert len(caught) == 1
    with pytest.raises(TypeError, match=r"^f\(\) got an unexpected keyword argument 'c'$"):
        _calls.set_aside(f, {"c": 1}, {"a"})
    with pytest.raises(TypeError, match=r"'color'\. Did you mean 'colour'\?$"):
        _calls.set_aside(f, {"color": 1}, {"a"})


@pytest.mark.parametrize(
    ("given", "meant"),
    [(None, ""), ("", ""), ("results.md", "results.md"), ("a sentence that asks to choose", "")],
)
def test_file_name(given, meant):
    assert _calls.file_name(given) == meant
