"""What holds for every test: no keys of the developer's, no display, no settings from outside."""

import pytest

from cmbagent.utils import API_KEY_VARIABLES


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch, tmp_path):
    for variable in [*API_KEY_VARIABLES.values(), "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GEMINI_BASE_URL"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CMBAGENT_QUIET", "1")
    monkeypatch.setenv("CMBAGENT_STORE", str(tmp_path / ".store" / "store.db"))
