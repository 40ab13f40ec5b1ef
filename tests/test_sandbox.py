"""Scripts can do no harm, and science works: settings, secrets, what is told, and missing packages."""

import asyncio
import contextlib
import json
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import cmbagent
from cmbagent.approvals import AutoApprovalManager
from cmbagent.phases import Phase, PhaseConfig, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.testing import ModelServer, code
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

TRY = """
import os, sys
from pathlib import Path
def attempt(name, action):
    try:
        action()
    except OSError as error:
        print(name, "refused")
    else:
        print(name, "DONE")
"""


@dataclass
class ScriptConfig(PhaseConfig):
    phase_type: str = "script"


class ScriptPhase(Phase):
    """Runs the scripts that a test gives."""

    config_class = ScriptConfig
    phase_type = "script"
    display_name = "Script"
    scripts = ()

    async def execute(self, context):
        context.output_data = {"ran": [await context.run.execute(text) for text in self.scripts]}
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory with secrets in it, and none of the user's own."""
    place = tmp_path / "home"
    for name in (".ssh/id_ed25519", ".aws/credentials", ".config/gcloud/token", ".netrc", "app/.env",
                 ".config/matplotlib/matplotlibrc", "data/table.csv", "venv/.env/file"):  # fmt: skip
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("figure.dpi: 77" if "matplotlib" in name else "content")
    monkeypatch.setenv("HOME", str(place))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    return place


@pytest.fixture
def execute(tmp_path):
    """Run scripts in a phase of a workflow; gives their results, and the executor."""
    PhaseRegistry.register_class("script", ScriptPhase)

    def run(*scripts, work_dir=tmp_path / "work", **options):
        ScriptPhase.scripts = scripts
        workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": "script", "config": {}}])
        executor = WorkflowExecutor(workflow, "t", work_dir, {}, verbose=False, options=options)
        executor.run_sync()
        return executor.results[-1].context.output_data["ran"], executor

    return run


def events(executor, kind):
    async def collect():
        return [data async for name, data in executor.events() if name == kind]

    return asyncio.run(collect())


def lines(text):
    return dict(line.rsplit(" ", 1) for line in text.splitlines())


# --- secrets ---


def test_secret_places_cannot_be_read_and_their_neighbours_can(execute, home, tmp_path):
    work = tmp_path / "projects" / "mine"
    beside = tmp_path / "projects" / "other"
    for folder in (work, beside, tmp_path / "projects"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".env").write_text("KEY=1")
    (beside / "input.csv").write_text("1")
    secret = [home / n for n in (".ssh/id_ed25519", ".aws/credentials", ".config/gcloud/token", ".netrc",
                                 "app/.env")]  # fmt: skip
    secret += [beside / ".env", tmp_path / "projects" / ".env"]
    usual = [home / "data/table.csv", home / "venv/.env/file", beside / "input.csv", work / ".env"]
    attempts = "\n".join(f"attempt({str(p)!r}, lambda: open({str(p)!r}).read())" for p in secret + usual)
    link = f"os.symlink({str(secret[0])!r}, 'link')\nattempt('link', lambda: open('link').read())"
    [ran], executor = execute(f"{TRY}{attempts}\n{link}", work_dir=work)
    told = lines(ran["output"])
    assert {p: told[str(p)] for p in secret} == dict.fromkeys(secret, "refused")
    assert {p: told[str(p)] for p in usual} == dict.fromkeys(usual, "DONE")
    assert told["link"] == "refused"
    # Where every script can read it, the user is told.
    [warning] = [data["message"] for data in events(executor, "warning")]
    assert str(work / ".env") in warning


def test_named_places_may_be_read_and_written(execute, home, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    text = f"{TRY}attempt('aws', lambda: (Path.home() / '.aws/credentials').read_text())\n"
    text += f"attempt('out', lambda: Path({str(out)!r}, 'a').write_text('x'))\n"
    [ran], _ = execute(text)
    assert lines(ran["output"]) == {"aws": "refused", "out": "refused"}
    [ran], _ = execute(text, read_paths=["~/.aws"], write_paths=[str(out)])
    assert lines(ran["output"]) == {"aws": "DONE", "out": "DONE"}


def test_the_record_of_runs_is_out_of_reach(execute, tmp_path, monkeypatch):
    store = tmp_path / "state" / "store.db"
    monkeypatch.setenv("CMBAGENT_STORE", str(store))
    text = f"{TRY}store = Path({str(store)!r})\nattempt('read', lambda: store.read_text())\n"
    text += "attempt('log', lambda: store.with_name('store.db-wal').read_text())\n"
    text += "attempt('write', lambda: store.write_text('x'))\nattempt('remove', lambda: store.unlink())"
    [ran], _ = execute(text)
    assert set(lines(ran["output"]).values()) == {"refused"}
    assert store.read_bytes().startswith(b"SQLite")


def test_a_work_dir_that_holds_the_record_of_runs_is_refused_before_any_call(tmp_path, monkeypatch):
    monkeypatch.setenv("CMBAGENT_STORE", str(tmp_path / "store.db"))
    server = ModelServer({"engineer": code("print(1)", filename="a.py")})
    with server, server.environment(), pytest.raises(cmbagent.CmbagentError, match=r"store.* lies in"):
        cmbagent.one_shot("t", work_dir=tmp_path, api_keys=server.api_keys)
    assert not server.calls


def test_a_record_that_the_caller_names_is_out_of_reach_too(tmp_path):
    store = tmp_path / "own" / "store.db"
    store.parent.mkdir()
    script = (
        f"{TRY}store = Path({str(store)!r})\nattempt('read', lambda: store.read_bytes())\nprint('x = 1 m')"
    )
    server = ModelServer({"engineer": code(script, filename="a.py")})
    workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": "one_shot", "config": {}}])
    with server, server.environment():
        executor = WorkflowExecutor(
            workflow, "t", tmp_path / "work", server.api_keys, verbose=False, store=store
        )
        executor.run_sync()
    assert store.exists()
    assert events(executor, "script_finished")[0]["output"] == "read refused\nx = 1 m\n"


# --- the run's own files ---


@pytest.mark.parametrize("how", ["changed", "removed", "a pipe", "a link"])
def test_the_record_of_the_runs_files_is_written_anew(tmp_path, how):
    other = tmp_path / "other"
    other.write_text("other")
    tamper = {
        "changed": """record.write_text('{"run_id": "x", "products": ["theirs.csv"]}')""",
        "removed": "record.unlink()",
        "a pipe": "record.unlink(); os.mkfifo(record)",
        "a link": f"record.unlink(); record.symlink_to({str(other)!r})",
    }[how]
    script = f"""
import os
from pathlib import Path
record = Path(".cmbagent-run.json")
{tamper}
Path("mine.csv").write_text("1")
print("x = 1 m")
"""
    executor, _ = engineer_run(tmp_path, script)
    record = json.loads((tmp_path / "work" / ".cmbagent-run.json").read_text())
    assert "mine.csv" in record["products"] and "theirs.csv" not in record["products"]
    assert record["run_id"] == executor.context.run_id
    assert any("record of the run" in data["message"] for data in events(executor, "warning"))
    assert other.read_text() == "other"


@pytest.mark.parametrize("name", ["data", "logs", "chats", "cost"])
def test_the_host_follows_no_link_that_a_script_left(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    script = f"""
import os, shutil
shutil.rmtree({name!r}, ignore_errors=True)
os.symlink({str(outside)!r}, {name!r})
print("x = 1 m")
"""
    for _ in range(2):
        with contextlib.suppress(cmbagent.CmbagentError):
            engineer_run(tmp_path, script)
    with pytest.raises(cmbagent.CmbagentError, match="symbolic link"):
        engineer_run(tmp_path, script)
    assert not list(outside.iterdir())


def test_nothing_that_the_host_reads_later_can_be_poisoned(execute, tmp_path, home):
    package = Path(cmbagent.__file__).parent
    text = f"""{TRY}
attempt("package", lambda: Path({str(package)!r}, "evil.py").write_text("x"))
attempt("bytecode", lambda: Path({str(package)!r}, "__pycache__", "evil.pyc").write_text("x"))
attempt("site", lambda: Path({str(package.parent)!r}, "evil.pth").write_text("x"))
attempt("fonts", lambda: (Path.home() / ".config/matplotlib/fontlist.json").write_text("x"))
attempt("cache", lambda: (Path.home() / ".cache").mkdir())
attempt("profile", lambda: (Path.home() / ".bashrc").write_text("x"))
"""
    [ran], _ = execute(text)
    assert set(lines(ran["output"]).values()) == {"refused"}


# --- what is told ---


def test_what_holds_is_an_event_and_what_does_not_stands_in_the_report(tmp_path):
    server = ModelServer({"engineer": code("print('x = 1 m')", filename="a.py")})
    workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": "one_shot", "config": {}}])
    with server, server.environment():
        executor = WorkflowExecutor(workflow, "t", tmp_path, server.api_keys, verbose=False)
        executor.run_sync()
    [told] = events(executor, "sandbox")
    assert told["mode"] == "default" and told["network"] is True
    assert told["write"][0] == str(tmp_path)
    assert any("writes outside" in what for what in told["enforced"] + told["not_enforced"])
    report = json.loads((tmp_path / "logs" / "sandbox.json").read_text())
    assert report["not_enforced"] == told["not_enforced"] and report["mode"] == "default"
    assert "Network: yes" in server.prompts("engineer")[0]


def test_off_confines_nothing_and_says_so(execute, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    [ran], executor = execute(f"open({str(out / 'a')!r}, 'w').write('x')", sandbox="off")
    assert ran["success"] and (out / "a").exists()
    [told] = events(executor, "sandbox")
    assert told["mode"] == "off" and "off" in told["not_enforced"][0]


def test_strict_reads_little_and_has_no_network(execute, home, tmp_path):
    text = f"""{TRY}
import socket
attempt("home", lambda: (Path.home() / "data/table.csv").read_text())
attempt("network", lambda: socket.create_connection(("127.0.0.1", 9), timeout=5))
import numpy
print("numpy", numpy.arange(3).sum())
"""
    [ran], executor = execute(text, sandbox="strict")
    assert lines(ran["output"]) == {"home": "refused", "network": "refused", "numpy": "3"}
    assert events(executor, "sandbox")[0]["network"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sandbox": "lax"}, "strict"),
        ({"write_paths": ["relative"]}, "full path"),
        ({"write_paths": ["/nowhere/at/all"]}, "make it or leave it out"),
        ({"script_memory_gb": -1}, "script_memory_gb"),
        ({"allow_install": "perhaps"}, "allow_install"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told_in_words(execute, options, words):
    with pytest.raises(cmbagent.CmbagentError, match=words):
        execute("print(1)", **options)


def test_limits_are_told(execute):
    text = "import os, time\nfor _ in range(30):\n    if not os.fork(): time.sleep(600)\ntime.sleep(600)"
    [ran], _ = execute(text, script_processes=10)
    assert not ran["success"] and "more than 10 processes" in ran["exit"]
    [ran], _ = execute("x = [bytearray(10**7) for _ in range(99)]", script_memory_gb=0.4)
    assert "MemoryError" in ran["output"] or "of memory" in ran["exit"]


# --- ordinary science ---


def test_numpy_matplotlib_and_joblib_work(execute, home, tmp_path):
    pytest.importorskip("matplotlib")
    text = f"""
import os
import numpy as np
import matplotlib
import matplotlib.pyplot as plt
from concurrent.futures import ProcessPoolExecutor
table = np.loadtxt({str(tmp_path / "input.csv")!r})
plt.plot(table)
plt.savefig("data/plot.png")
array = np.ones(125_000_000)
print(array.nbytes, array.sum(), matplotlib.rcParams["figure.dpi"], os.path.exists("data/plot.png"))
np.save(os.path.join(os.environ["TMPDIR"], "x.npy"), array[:10])
if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        print(sum(pool.map(abs, range(-3, 3))))
print(sorted(os.listdir(os.environ["MPLCONFIGDIR"]))[:1])
"""
    (tmp_path / "input.csv").write_text("1\n2\n")
    [ran], _ = execute(text)
    assert ran["success"], ran["output"]
    assert ran["output"].startswith("1000000000 125000000.0 77.0 True\n9\n['fontlist")
    assert not (home / ".cache").exists()


def test_joblib_shares_memory(execute):
    pytest.importorskip("joblib")
    text = """
import numpy as np
from joblib import Parallel, delayed
if __name__ == "__main__":
    array = np.ones(1_000_000)
    print(Parallel(n_jobs=2)(delayed(np.sum)(array) for _ in range(2)))
"""
    [ran], _ = execute(text)
    assert ran["success"], ran["output"]


def test_variables_of_clusters_and_devices_pass(execute, monkeypatch):
    names = ["SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CONDA_PREFIX", "MY_OWN"]
    for name in names:
        monkeypatch.setenv(name, "7")
    [ran], _ = execute(f"import os\nprint([os.environ.get(n) for n in {names}])", env_passthrough=["MY_OWN"])
    assert ran["output"] == "['7', '7', '7', '7', '7']\n"


# --- missing packages ---


def wheel(folder, name, requires=(), body=""):
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    metadata += "".join(f"Requires-Dist: {other}\n" for other in requires)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", body)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A local index of two packages, of which one needs the other and one that is installed."""
    folder = tmp_path / "wheels"
    wheel(folder, "tinyneeds", body="VALUE = 41")
    wheel(
        folder, "tinyscience", ["tinyneeds", "numpy"], "import numpy, tinyneeds\nVALUE = tinyneeds.VALUE + 1"
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


SCRIPT = "import tinyscience\nprint('value =', tinyscience.VALUE, 'm', tinyscience.__file__)"


def engineer_run(tmp_path, *answers, manager=None, config=None, kind="one_shot", **options):
    server = ModelServer({"engineer": [code(answer, filename="a.py") for answer in answers]})
    config = {"max_n_attempts": len(answers) - 1, **(config or {})}
    workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": kind, "config": config}])
    with server, server.environment():
        executor = WorkflowExecutor(
            workflow, "t", tmp_path / "work", server.api_keys, approval_manager=manager, verbose=False,
            options=options,
        )  # fmt: skip
        executor.run_sync()
    return executor, server


def test_a_missing_package_is_installed_for_the_run_and_the_script_runs_again(tmp_path, index):
    executor, server = engineer_run(tmp_path, SCRIPT)
    server.assert_calls(["engineer"])
    assert executor.results[-1].context.output_data["result"]["n_attempts"] == 0
    ran = events(executor, "script_finished")
    assert [each["success"] for each in ran] == [False, True]
    assert "value = 42 m" in ran[1]["output"]
    [done] = events(executor, "install_finished")
    assert (done["package"], done["success"]) == ("tinyscience", True)
    # What was installed already is not installed again, nor is anything else changed.
    assert "numpy" not in done["output"] and "tinyneeds==1.0" in done["output"]
    assert not shutil.which("tinyscience") and "cmbagent-run-" in ran[1]["output"]
    assert not Path(ran[1]["output"].split()[-1]).exists()


@pytest.mark.parametrize("how", ["refused", "unknown", "source"])
def test_a_package_that_is_not_installed_goes_back_to_the_engineer(tmp_path, index, how):
    options = {"allow_install": False} if how == "refused" else {}
    if how == "source":
        (index / "tinyscience-1.0-py3-none-any.whl").unlink()
        (index / "tinyscience-1.0.tar.gz").write_bytes(b"")
    name = "nosuchthing" if how == "unknown" else "tinyscience"
    executor, server = engineer_run(tmp_path, f"import {name}", "print('x = 1 m')", **options)
    server.assert_calls(["engineer", "engineer"])
    prompt = server.prompts("engineer")[1]
    assert f"The package {name} is not installed." in prompt
    assert ("It could not be installed" in prompt) == (how != "refused")
    assert len(events(executor, "install_started")) == (how != "refused")


@pytest.mark.parametrize("answer", ["approve", "reject"])
def test_a_human_is_asked_where_one_is_in_the_loop(tmp_path, index, answer):
    def policy(request):
        return answer if request.checkpoint_type == "before_install" else "continue"

    manager = AutoApprovalManager(policy)
    steps = [{"sub_task": "compute", "sub_task_agent": "engineer", "bullet_points": ["print it"]}]
    config = {"hitl_enabled": True, "max_n_attempts": 1, "params": {"preloaded_plan": steps}}
    executor, server = engineer_run(
        tmp_path, SCRIPT, "print('x = 1 m')", manager=manager, config=config, kind="control"
    )
    request, _ = manager.answered[0]
    assert request.checkpoint_type == "before_install" and "tinyscience" in request.message
    assert len(server.calls) == (1 if answer == "approve" else 2)
    if answer == "reject":
        assert "did not want tinyscience" in server.prompts("engineer")[1]
        assert not events(executor, "install_started")
