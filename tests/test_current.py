import asyncio

import pytest

from cmbagent import _current


class KeyManager:
    def __getitem__(self, name):
        return "k"


def test_keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    manager = KeyManager()
    assert _current.keys(manager) is manager
    assert _current.keys({"GEMINI": "g"}) == {"GEMINI": "g"}
    assert _current.keys(None)["OPENAI"] == _current.keys({})["OPENAI"] == "from-env"


def test_within_marks_the_run_and_forgets_it():
    handle = object()

    class Phase:
        def __init__(self, error=None):
            self.error = error

        async def execute(self, context):
            if self.error:
                raise self.error
            return _current.get(), context

    async def main():
        inside = await _current.within(handle, Phase(), "context")
        with pytest.raises(KeyError):
            await _current.within(handle, Phase(KeyError("x")), "context")
        return inside, _current.get()

    assert asyncio.run(main()) == ((handle, "context"), None)


def test_listener_hears_with_the_contexts_callbacks():
    from cmbagent.callbacks import WorkflowCallbacks
    from cmbagent.phases import PhaseContext

    callbacks = WorkflowCallbacks()
    assert (
        _current.listener(PhaseContext("w", "r", "p", "t", "/", callbacks=callbacks))._callbacks is callbacks
    )
