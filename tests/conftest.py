"""What holds for every test: no keys of the developer's and no settings from outside."""

import contextlib
import signal
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cmbagent import cli
from cmbagent.store import Store
from cmbagent.testing import ModelServer
from cmbagent.utils import API_KEY_VARIABLES
from cmbagent.workflows import _calls

# Where the tests were begun in the background these are ignored, and would be by all that the tests begin.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.fixture(scope="session", autouse=True)
def store_of_the_tests(tmp_path_factory):
    # Beside the tests' directories, for executed code may not reach it; also for what outlives a test.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CMBAGENT_STORE", str(tmp_path_factory.getbasetemp() / "store.db"))
        yield


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch, tmp_path):
    for variable in [*API_KEY_VARIABLES.values(), "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GEMINI_BASE_URL"]:
        monkeypatch.delenv(variable, raising=False)
    for variable in ("CMBAGENT_CAMB_DOCS", "CMBAGENT_CLASSY_DOCS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    # Nothing is installed from anywhere but this machine.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.fixture
def planned(monkeypatch):
    """Record what would be run, and stop there."""
    calls = []

    class Stop(Exception):
        pass

    def run(self, workflow_id, name, phases, **kwargs):
        arguments = {**self.arguments, "work_dir": self.work_dir, "phases": phases, **kwargs}
        calls.append(SimpleNamespace(id=workflow_id, **arguments))
        raise Stop

    monkeypatch.setattr(_calls.Call, "run", run)

    def call(function, *args, **kwargs):
        with pytest.raises(Stop):
            function(*args, **kwargs)
        return calls[-1]

    return call


@pytest.fixture
def serve():
    """Start a server of scripted models that all requests go to."""
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(stack.enter_context(ModelServer(script)).environment())


@pytest.fixture
def invoke():
    """Run the command line in this process."""

    def run(*arguments, **options):
        return CliRunner().invoke(cli.app, [str(each) for each in arguments], **options)

    return run


@pytest.fixture
def store(monkeypatch, tmp_path_factory):
    """A store of this test's own, which is the user's meanwhile."""
    path = tmp_path_factory.mktemp("state") / "store.db"
    monkeypatch.setenv("CMBAGENT_STORE", str(path))
    return Store(path)
