"""What the command line says of a store that cannot be used: one sentence, and its exit status."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from begun import begun
from cmbagent.errors import ConfigurationError, JournalError
from cmbagent.store import Store
from cmbagent.testing import ModelServer, notes

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def bound_by_permissions():
    """Gives up what root has over others, in a process about to start."""
    if os.geteuid() == 0:
        assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0


def refused(result):
    """The one sentence of a command that could not use the store."""
    assert result.exit_code == 4, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: the store ") or result.stderr.startswith("error: /")
    assert result.stderr.count("\n") == 1
    return result.stderr


CHANGE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute(sys.argv[2])
connection.commit()
"""


def changed(path, statement):
    """Changes a database from another process: two copies of SQLite in one do not see each other's locks."""
    subprocess.run([sys.executable, "-c", CHANGE, str(path), statement], check=True)


def elsewhere(*arguments, **options):
    """The command in a process of its own: (status, output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "cmbagent", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def stranger():
    """A directory, and how to start a process that permissions hold for."""
    place = Path(tempfile.mkdtemp())
    yield place, {"preexec_fn": bound_by_permissions}
    for each in [place, *place.rglob("*")]:
        each.chmod(0o700)
    shutil.rmtree(place)


def test_a_store_of_a_newer_version(invoke, tmp_path, monkeypatch):
    path = tmp_path / "s.db"
    Store(path)
    changed(path, "PRAGMA user_version = 99")
    monkeypatch.setenv("CMBAGENT_STORE", str(path))
    for verb in ("runs", "show", "resume"):
        words = refused(invoke(verb, *["x"][: verb != "runs"]))
        assert "was written by a newer cmbagent (schema 99; this one knows " in words
        assert "update cmbagent" in words


def test_a_database_of_another_program(invoke, tmp_path, monkeypatch):
    changed(tmp_path / "s.db", "CREATE TABLE theirs (x)")
    monkeypatch.setenv("CMBAGENT_STORE", str(tmp_path / "s.db"))
    assert "is a database of another program: name another file" in refused(invoke("runs"))


@pytest.mark.parametrize("content", [b"not a database at all" * 99, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file(invoke, tmp_path, monkeypatch, content):
    (tmp_path / "s.db").write_bytes(content)
    monkeypatch.setenv("CMBAGENT_STORE", str(tmp_path / "s.db"))
    assert "it is damaged: move it away" in refused(invoke("runs"))
    assert (tmp_path / "s.db").read_bytes() == content


def test_a_damaged_run_leaves_the_others_alone(invoke, store, tmp_path):
    with ModelServer({"researcher": notes("# It\n\n42.")}) as server, server.environment():
        for name in ("a", "b"):
            arguments = ("one_shot_researcher", name, "--work-dir", tmp_path / name, "-q")
            assert invoke("run", *arguments).exit_code == 0
    later, earlier = store.runs()
    number = f"(SELECT no FROM runs WHERE id = '{earlier.id}')"
    changed(store.path, f"UPDATE events SET body = '[[0,' WHERE seq = 3 AND run = {number}")
    words = refused(invoke("show", earlier.id))
    assert f"is damaged at run {earlier.id}: record 3 is not what was written" in words
    assert f"cmbagent prune --run {earlier.id}" in words
    assert invoke("show", later.id).exit_code == 0
    assert len(invoke("runs").output.splitlines()) == 3
    assert invoke("prune", "--run", earlier.id, "--yes").exit_code == 0
    assert [info.id for info in store.runs()] == [later.id]


def test_a_store_that_only_others_may_write(stranger):
    place, somebody = stranger
    path = place / "s.db"
    Store(path)
    path.chmod(0o444)
    place.chmod(0o555)
    status, output, error = elsewhere("runs", env={**os.environ, "CMBAGENT_STORE": str(path)}, **somebody)
    assert (status, output, error.count("\n")) == (4, "", 1)
    assert error.startswith(f"error: the store {path} could not be opened (")
    assert "it cannot be written to: check its permissions and its disk, or name another with store=" in error


def test_a_home_that_cannot_be_written(stranger, tmp_path):
    place, somebody = stranger
    place.chmod(0o555)
    environment = {k: v for k, v in os.environ.items() if k not in ("CMBAGENT_STORE", "XDG_STATE_HOME")}
    environment["HOME"] = str(place)
    status, output, error = elsewhere("runs", env=environment, **somebody)
    assert (status, output, error.count("\n")) == (4, "", 1)
    assert error.startswith(
        f"error: the store of runs at {place}/.local/state/cmbagent/store.db cannot be made"
    )


def test_a_run_goes_on_without_a_home_and_says_so(stranger):
    place, somebody = stranger
    environment = {k: v for k, v in os.environ.items() if k not in ("CMBAGENT_STORE", "XDG_STATE_HOME")}
    work = place / "work"
    work.mkdir()
    work.chmod(0o777)
    home = place / "home"
    home.mkdir(mode=0o555)
    with ModelServer({"researcher": notes("# It\n\n42.")}) as server:
        status, output, error = elsewhere(
            "run", "one_shot_researcher", "task", "--work-dir", work / "out", "-q",
            env={**environment, **server.variables, "HOME": str(home)}, **somebody,
        )  # fmt: skip
    assert (status, len(output.splitlines())) == (0, 1)
    assert "this run will not survive a crash: the store of runs at " in error
    assert (work / "out").is_dir()


def test_a_full_disk_ends_the_run_in_words_and_it_is_resumed_afterwards(invoke, store, tmp_path):
    text = "# It\n\n" + "".join(f"{number} is a number.\n" for number in range(4000))
    with ModelServer({"researcher": notes(text)}) as server:
        status, output, error = elsewhere(
            "run", "one_shot_researcher", "task", "--work-dir", tmp_path / "work", "-q",
            env={**os.environ, **server.variables},
            # The store's own files were made before; what the run appends does not fit.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY)),
        )  # fmt: skip
        (info,) = store.runs()
        assert (status, output) == (4, ""), error
        first, second = error.splitlines()
        assert first.startswith(f"error: the store {store.path} could not be written (")
        assert second == f"To go on: cmbagent resume {info.id}"
        assert info.status == "interrupted"
        with server.environment():
            assert invoke("resume", info.id, "-q").exit_code == 0
    assert store.run(info.id).status == "completed"


def test_answers_are_checked_before_they_are_kept(store, tmp_path):
    begun(store._core, "r", {"task": "t"}, str(tmp_path)).release()
    with pytest.raises(JournalError, match="run r has no question 'q'"):
        store.answer("r", "q", "approve")
    number = "(SELECT no FROM runs WHERE id = 'r')"
    question = (
        '{"run_id": "r", "step_id": "s", "checkpoint_type": "after_planning", "context_snapshot": {}, '
        '"message": "Well?", "options": ["approve", "reject"], "timeout_seconds": 9}'
    )
    changed(
        store.path,
        f"INSERT INTO questions (run, id, asked, question) VALUES ({number}, 'q', 1, '{question}')",
    )
    for answer in ({"resolution": "perhaps"}, {"resolution": "approve", "modifications": {"plan": [7]}}):
        with pytest.raises(ConfigurationError):
            store.answer("r", "q", **answer)
    assert store.questions("r")[0]["answer"] is None
    store.answer("r", "q", "Approved", " yes ")
    assert store.questions("r")[0]["answer"]["resolution"] == "approve"
    assert store.questions("r")[0]["answer"]["user_feedback"] == "yes"


def test_a_process_that_opens_the_store_again_keeps_its_locks(store, tmp_path):
    # Closing any handle of a file drops a process's locks on it; another process would then take itself for
    # the last one and remove the log under this one's feet.
    first = begun(store._core, "r", {"task": "t"}, str(tmp_path))
    log = Path(f"{store.path}-wal")
    assert log.exists()
    for _ in range(3):
        Store(store.path)
    status, _, error = elsewhere("runs", env={**os.environ, "CMBAGENT_STORE": str(store.path)})
    assert (status, error) == (0, "")
    assert log.exists()
    first.release()
