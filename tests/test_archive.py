"""Runs as one file: what is in it, and what is refused."""

import json
import stat
import zipfile

import pytest

from cmbagent import archive
from cmbagent.errors import ConfigurationError
from cmbagent.testing import ModelServer, code, notes, plan, review
from cmbagent.workflows import WorkflowExecutor

KEY = "sk-abcdefghijklmnop0123"
SCRIPT = {
    "planner": plan(("engineer", "Compute six times seven."), ("researcher", "Write it down.")),
    "plan_reviewer": review("Print the number."),
    "engineer": code(
        "from pathlib import Path\nPath('data').mkdir(exist_ok=True)\n"
        "Path('data/table.csv').write_text('42')\n"
        f"Path('data/key.txt').write_text('{KEY[:9]}' + '{KEY[9:]}')\n"
        "print('answer = 42')",
        filename="answer.py",
    ),
    "researcher": notes("# Answer\n\nThe answer is 42."),
}


@pytest.fixture
def exported(invoke, store, tmp_path):
    """A run's id, and the file it was exported to."""
    with ModelServer(SCRIPT) as server, server.environment():
        task = f"Six times seven? My key is {KEY}."
        assert invoke("run", "deep_research", task, "--work-dir", tmp_path / "work", "-q").exit_code == 0
    (info,) = store.runs()
    result = invoke("export", info.id, tmp_path / "out.zip")
    assert result.exit_code == 0, result.output
    assert "left out: control/data/key.txt (it holds what looks like a key)" in result.stderr
    return info.id, tmp_path / "out.zip"


def rewritten(source, target, change):
    """A copy of an archive, its entries changed by a function of their dict."""
    with zipfile.ZipFile(source) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content)
    return target


def swap(entries, name, old, new):
    assert old in entries[name]
    entries[name] = entries[name].replace(old, new)


def test_what_is_in_it_and_what_is_not(exported, tmp_path):
    run, file = exported
    with zipfile.ZipFile(file) as opened:
        content = {name: opened.read(name) for name in opened.namelist()}
    assert {"run.json", "records.jsonl", "timeline.json", "tape.jsonl"} <= set(content)
    names = {name for name in content if name.startswith("files/")}
    assert {
        "files/planning/final_plan.json",
        "files/control/codebase/answer.py",
        "files/control/data/table.csv",
    } <= names
    assert not any(KEY.encode() in each for each in content.values())
    head = json.loads(content["run.json"])
    assert (head["format"], head["run"]["id"], head["run"]["status"]) == (1, run, "completed")
    assert len(head["prompts"]["engineer"]) == 64
    assert head["run"]["usage"]["calls"] == 5
    assert json.loads(content["timeline.json"])["error"] is None


def test_the_tape_in_it_replays_the_run(exported, store, tmp_path):
    with zipfile.ZipFile(exported[1]) as opened:
        opened.extract("tape.jsonl", tmp_path)
    again = WorkflowExecutor.resume(exported[0], store, verbose=False)
    ran = WorkflowExecutor(
        again.workflow,
        again.task,
        tmp_path / "b",
        verbose=False,
        replay=tmp_path / "tape.jsonl",
        store=":memory:",
    )
    ran.run_sync()
    assert ran.outcome == "completed"
    assert (tmp_path / "b/control/data/table.csv").read_text() == "42"


def test_an_imported_run_is_shown_and_not_resumed(invoke, exported, store, monkeypatch, tmp_path):
    run, file = exported
    refused = invoke("import", file, "--to", tmp_path / "taken")
    assert refused.exit_code == 4
    assert f"has run {run} already" in refused.stderr
    assert not (tmp_path / "taken").exists()
    page = invoke("show", run).output
    store.delete(run)
    done = invoke("import", file, "--to", tmp_path / "taken")
    assert done.exit_code == 0, done.output
    info = store.run(run)
    assert info.about["imported"] is True
    assert (info.status, info.resumable, info.work_dir) == ("completed", False, str(tmp_path / "taken"))
    assert (tmp_path / "taken/control/data/table.csv").read_text() == "42"
    shown = invoke("show", run).output
    assert shown.splitlines()[0] == f"Run {run} · deep_research · imported, completed"
    assert shown.splitlines()[6:] == page.splitlines()[6:]
    resumed = invoke("resume", run)
    assert resumed.exit_code == 2
    assert "was imported: it can be shown and replayed, not resumed" in resumed.stderr
    assert "(imported)" in invoke("runs").output


@pytest.mark.parametrize(
    "name",
    ["files/../evil.txt", "files//etc/evil", "files/a/../../evil", "files/a\\..\\evil", "files/C:evil"],
)
def test_names_that_lead_out_are_refused(invoke, exported, store, tmp_path, name):
    run, file = exported
    store.delete(run)
    bad = rewritten(file, tmp_path / "bad.zip", lambda entries: entries.update({name: b"evil"}))
    before = sorted(tmp_path.iterdir())
    result = invoke("import", bad, "--to", tmp_path / "taken")
    assert result.exit_code == 1
    assert "leads out of the run's directory: nothing was taken in" in result.stderr
    assert (sorted(tmp_path.iterdir()), store.runs()) == (before, [])


def test_links_are_refused(exported, store, tmp_path):
    run, file = exported
    store.delete(run)
    with zipfile.ZipFile(file, "a") as opened:
        link = zipfile.ZipInfo("files/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(ConfigurationError, match="leads out"):
        archive.import_run(store, file, tmp_path / "taken")


def test_what_is_too_large_is_refused_also_when_it_lies(exported, store, monkeypatch, tmp_path):
    run, file = exported
    store.delete(run)
    with pytest.raises(ConfigurationError, match=r"takes 0 MB or more when unpacked.*--max-mb"):
        archive.import_run(store, file, tmp_path / "taken", max_bytes=1000)
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(ConfigurationError, match="at most 3 are taken in"):
        archive.import_run(store, file, tmp_path / "taken")
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.pop("run.json"), "no file of `cmbagent export`"),
        (lambda e: e.update({"run.json": b"{}"}), "KeyError"),
        (lambda e: e.update({"run.json": b"[" * 100_000}), "RecursionError"),
        (lambda e: swap(e, "run.json", b'"format": 1', b'"format": 9'), "update cmbagent"),
        (lambda e: e.update({"records.jsonl": b"{}\n"}), "record 1 cannot be read"),
        (lambda e: swap(e, "records.jsonl", b'"seconds": ', b'"seconds": "x", "x": '), "not what cmbagent"),
    ],
)  # fmt: skip
def test_what_is_no_export_is_refused_and_nothing_stays(exported, store, tmp_path, change, words):
    run, file = exported
    store.delete(run)
    bad = rewritten(file, tmp_path / "bad.zip", change)
    with pytest.raises((ValueError, RuntimeError), match=words):
        archive.import_run(store, bad, tmp_path / "taken")
    assert store.runs() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "out.zip", "work"]


def test_no_file_to_import(invoke, store, tmp_path):
    result = invoke("import", tmp_path / "none.zip")
    assert result.exit_code == 2
    assert f"There is no file {tmp_path / 'none.zip'}; name what `cmbagent export` made." in result.stderr


def test_a_file_that_is_no_zip(invoke, store, tmp_path):
    (tmp_path / "x.zip").write_text("no zip")
    result = invoke("import", tmp_path / "x.zip")
    assert result.exit_code == 1
    assert "is no file of `cmbagent export`, or is damaged" in result.stderr


def test_nothing_is_written_over(invoke, exported, store, tmp_path):
    run, file = exported
    again = invoke("export", run, file)
    assert again.exit_code == 1
    assert "is not written over" in again.stderr
    store.delete(run)
    result = invoke("import", file, "--to", tmp_path / "work")
    assert result.exit_code == 1
    assert "is not empty" in result.stderr
    assert store.runs() == []


def test_links_and_large_files_are_left_out(exported, store, tmp_path):
    run, _ = exported
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "work/control/data/link").symlink_to(tmp_path / "secret")
    left_out = archive.export_run(store, run, tmp_path / "small.zip", max_file_bytes=30)
    assert left_out["control/data/link"] == "a link"
    assert left_out["planning/final_plan.json"].endswith(" MB")
    with zipfile.ZipFile(tmp_path / "small.zip") as opened:
        assert "files/control/data/table.csv" in opened.namelist()
        assert not any("link" in name for name in opened.namelist())
