"""What `cmbagent doctor` finds, and what it says to do."""

import json
import shutil
from types import SimpleNamespace

import pytest

from cmbagent import _core
from cmbagent.cli import _checks
from cmbagent.store import Store
from cmbagent.testing import ModelServer

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz123456"


@pytest.fixture
def doctor(invoke, store, tmp_path):
    """The checks by name, after a look whose exit status was as expected."""

    def look(*options, status=0):
        result = invoke("doctor", "--json", "--work-dir", tmp_path / "new" / "work", *options)
        assert result.exit_code == status, result.output
        found = json.loads(result.stdout)
        assert found["exit_status"] == status
        return {each.pop("name"): each for each in found["checks"]}

    return look


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def disk_with(monkeypatch, free):
    usage = SimpleNamespace(total=10**12, used=0, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_all_is_well(doctor, store, key):
    found = doctor()
    assert list(found) == [
        "Python", "cmbagent", "extra [science]", "extra [server]", "extra [documents]", "keys", "sandbox",
        "store", "work directory",
    ]  # fmt: skip
    assert "fail" not in {each["status"] for each in found.values()}
    assert found["cmbagent"]["found"].startswith(_core.__version__)
    assert str(store.path) in found["store"]["found"]
    assert "0 runs" in found["store"]["found"]


def test_for_people(invoke, store, tmp_path):
    result = invoke("doctor", "--work-dir", tmp_path)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].startswith("ok    Python: 3.")
    at = next(number for number, line in enumerate(lines) if line.startswith("fail  keys: none is set"))
    assert lines[at + 1].startswith("      → set one of OPENAI_API_KEY")
    assert lines[-1] == "Not ready: keys"


def test_ready_is_said(invoke, store, key, tmp_path):
    result = invoke("doctor", "--work-dir", tmp_path)
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "Ready.")


def test_keys_are_named_and_not_shown(invoke, store, key, tmp_path):
    for options in ([], ["--json"]):
        result = invoke("doctor", "--work-dir", tmp_path, *options)
        assert "OPENAI_API_KEY set" in result.output
        assert not any(KEY[at : at + 4] in result.output for at in range(3, len(KEY) - 3))


def test_a_server_that_answers_gets_no_key(doctor, key, monkeypatch):
    with ModelServer({}) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.variables["OPENAI_BASE_URL"])
        found = doctor()
    assert found["OPENAI_BASE_URL"]["status"] == "ok"
    assert "answers (404)" in found["OPENAI_BASE_URL"]["found"]


def test_a_server_that_does_not(doctor, monkeypatch):
    with ModelServer({}) as server:
        address = server.variables["OPENAI_BASE_URL"]
    monkeypatch.setenv("OPENAI_BASE_URL", address.replace("http://", "http://me:secret-word@"))
    monkeypatch.setenv("GEMINI_BASE_URL", "localhost:1")
    found = doctor(status=1)
    assert found["keys"]["status"] == "ok"
    assert f"{address} cannot be reached: " in found["OPENAI_BASE_URL"]["found"]
    assert "start the server" in found["OPENAI_BASE_URL"]["advice"]
    assert "must begin with http://" in found["GEMINI_BASE_URL"]["advice"]
    assert "secret-word" not in json.dumps(found)


def test_providers_are_asked_only_when_it_is_wanted(doctor, key, monkeypatch):
    asked = []

    def address(name, url):
        asked.append((name, url))
        return _checks.Check(name, _checks.OK, url)

    monkeypatch.setattr(_checks, "address", address)
    doctor()
    assert asked == []
    doctor("--online")
    assert asked == [("Openai", "https://api.openai.com/v1")]


@pytest.mark.parametrize(
    ("enforced", "not_enforced", "status", "advice"),
    [
        (["writes outside the directories for writing"], ["times (Landlock has no rule for them)"], "ok", ""),
        (["writes outside the directories for writing"], ["signals"], "ok", "not enforced here: signals"),
        ([], ["writes outside (needs …)"], "warn", "a Linux kernel ≥ 5.13 with Landlock"),
    ],
)
def test_what_the_machine_enforces(monkeypatch, enforced, not_enforced, status, advice):
    monkeypatch.setattr(_core, "sandbox", lambda: {"enforced": enforced, "not_enforced": not_enforced})
    check = _checks.sandbox()
    assert check.status == status
    assert check.advice == advice or (advice and check.advice.startswith(advice))


def test_this_machine_s_sandbox_is_asked_of_the_kernel():
    told = _core.sandbox()
    assert told["mode"] == "default"
    assert told["enforced"] + told["not_enforced"]
    # The thread that asked has confined itself, and nobody else.
    assert _checks.disk("here", _checks.Path("/tmp")).status != "fail"


def test_a_store_in_memory_and_one_that_is_none(doctor, key, monkeypatch, tmp_path):
    monkeypatch.setenv("CMBAGENT_STORE", ":memory:")
    assert doctor()["store"]["status"] == "warn"
    (tmp_path / "store.db").write_text("not a database, whatever its name says" * 100)
    monkeypatch.setenv("CMBAGENT_STORE", str(tmp_path / "store.db"))
    found = doctor(status=1)
    assert found["store"]["status"] == "fail"
    assert str(tmp_path / "store.db") in found["store"]["found"]


def test_a_store_on_a_network_is_told(doctor, key, monkeypatch):
    monkeypatch.setattr(Store, "network", property(lambda store: "Lustre"))
    found = doctor()["store"]
    assert (found["status"], "on Lustre" in found["found"]) == ("warn", True)
    assert "CMBAGENT_STORE" in found["advice"]


def test_a_run_tells_that_its_store_is_on_a_network(invoke, store, monkeypatch, tmp_path):
    monkeypatch.setattr(Store, "network", property(lambda store: "NFS"))
    with ModelServer({"engineer": "No code."}) as server, server.environment():
        result = invoke(
            "run", "one_shot", "t", "--work-dir", tmp_path / "work", "--quiet", "--max-attempts", 0
        )
    assert f"note: the store of runs {store.path} is on NFS" in result.stderr


def test_little_room(doctor, key, monkeypatch):
    disk_with(monkeypatch, 1_500_000_000)
    assert doctor()["work directory"]["status"] == "warn"
    disk_with(monkeypatch, 50_000_000)
    found = doctor(status=1)
    assert (found["work directory"]["status"], found["store"]["status"]) == ("fail", "fail")
    assert "50.0 MB free" in found["work directory"]["found"]


def test_a_work_directory_that_is_a_file(invoke, store, key, tmp_path):
    (tmp_path / "file").touch()
    result = invoke("doctor", "--work-dir", tmp_path / "file")
    assert result.exit_code == 1
    assert "is no directory" in result.output


def test_settings_that_no_run_could_use(doctor, key, monkeypatch, tmp_path):
    monkeypatch.setenv("CMBAGENT_HITL", "perhaps")
    monkeypatch.setenv("CMBAGENT_PRICES", str(tmp_path / "none.toml"))
    found = doctor(status=1)
    assert "expected ask, queue, approve or reject" in found["CMBAGENT_HITL"]["found"]
    assert "none.toml" in found["CMBAGENT_PRICES"]["found"]


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(_checks, "_version", lambda name: None if name in ("scipy", "pypdf") else "1.0")
    found = {check.name: check for check in _checks.extras()}
    assert found["extra [science]"].status == "warn"
    assert found["extra [science]"].found.endswith("; without scipy")
    assert found["extra [documents]"] == _checks.Check(
        "extra [documents]", "ok", "without pypdf", "pip install 'cmbagent[documents]' adds what is missing"
    )


def test_an_engine_of_another_version(monkeypatch):
    monkeypatch.setattr(_checks, "_version", lambda name: "9.9")
    (_, check) = _checks.versions()
    assert (check.status, "the package says 9.9" in check.found) == ("warn", True)
