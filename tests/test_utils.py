from pathlib import Path

import pytest

import cmbagent
from cmbagent import _core
from cmbagent.errors import MissingKeyError
from cmbagent.utils import get_api_keys_from_env, get_model_config, resolve_work_dir
from cmbagent.utils.utils import get_api_keys_from_env as from_submodule


class KeyManager:
    """A key holder with item access only; what it has not is an AttributeError."""

    OPENAI = "sk-open"
    GEMINI = None

    def __getitem__(self, name):
        return getattr(self, name)


def test_keys_from_environment(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "g")
    assert get_api_keys_from_env() == {"OPENAI": None, "GEMINI": "g", "ANTHROPIC": None, "MISTRAL": None}
    assert from_submodule is get_api_keys_from_env


@pytest.mark.parametrize(
    ("model", "provider", "api_type"),
    [
        ("o3-mini", "OPENAI", "openai"),
        ("gpt-4.1-2025-04-14", "OPENAI", "openai"),
        ("qwen3:30b", "OPENAI", "openai"),
        ("gemini-2.5-pro", "GEMINI", "google"),
        ("claude-3-7-sonnet", "ANTHROPIC", "anthropic"),
    ],
)
def test_model_config(model, provider, api_type):
    config = get_model_config(model, {provider: "key"})
    assert (config["model"], config["api_key"], config["api_type"]) == (model, "key", api_type)
    assert ("reasoning_effort" in config) == ("o3" in model)
    assert _core.route(model) == {"google": "gemini"}.get(api_type, api_type)


def test_only_the_named_provider_is_looked_up():
    assert get_model_config("gpt-4o", KeyManager())["api_key"] == "sk-open"
    with pytest.raises(MissingKeyError, match="'ANTHROPIC'") as caught:
        get_model_config("claude-3-7-sonnet", KeyManager())
    assert "sk-open" not in str(caught.value)
    with pytest.raises(ValueError, match="GEMINI_API_KEY"):
        get_model_config("gemini-2.5-pro", {"OPENAI": "x"})


def test_keys_default_to_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    assert get_model_config("gpt-4o")["api_key"] == "from-env"


def test_work_dir_default_follows_the_current_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    here = Path.cwd() / "cmbagent_output"
    from cmbagent.cmbagent import work_dir_default as in_module
    from cmbagent.utils import work_dir_default

    assert cmbagent.work_dir_default == work_dir_default == in_module == here
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert cmbagent.work_dir_default == Path.cwd() / "cmbagent_output"
    assert list(tmp_path.iterdir()) == [tmp_path / "sub"]


def test_resolve_work_dir(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    here = str(Path.cwd())
    assert resolve_work_dir("a/../b") == f"{here}/b"
    assert resolve_work_dir(Path("~/x")) == f"{tmp_path}/home/x"
    assert resolve_work_dir(None) == resolve_work_dir("") == f"{here}/cmbagent_output"
    assert not Path(here, "b").exists()


def test_default_models_of_agents():
    models = cmbagent.utils.default_agents_llm_model
    assert models["engineer"] == models["planner"] == "gpt-4.1-2025-04-14"
    assert models["plan_reviewer"] == models["idea_hater"] == "o3-mini-2025-01-31"
