"""Functions such as `get_keywords` make runs of their own: kept, but not to be resumed."""

import pytest

import cmbagent
from cmbagent import get_aas_keywords, one_shot
from cmbagent.errors import ConfigurationError
from cmbagent.phases import Phase, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.store import open_store
from cmbagent.testing import ModelServer, code
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor
from scripted import run

SCRIPT = {"aas_keyword_finder": {"keywords": ["Cosmology"]}, "engineer": code("print(1)", filename="a.py")}


def test_they_are_kept_and_stand_in_no_ones_way(tmp_path):
    run(ModelServer(SCRIPT), one_shot, "t", work_dir=tmp_path)
    run(ModelServer(SCRIPT), get_aas_keywords, "t", 1, tmp_path)
    store = open_store(None)
    helper, whole = store.runs(tmp_path)
    assert (helper.workflow_id, helper.status, helper.helper) == ("keywords", "completed", True)
    assert helper.usage["calls"] == 1 and not helper.resumable
    # The directory's run is the one that works there.
    assert store.find(tmp_path).id == whole.id and not whole.helper
    with pytest.raises(ConfigurationError, match="made by the function keywords; call that again"):
        cmbagent.resume(helper.id)


class Indexed(Phase):
    """Looks for keywords with the package's own function, as part of its run."""

    @property
    def phase_type(self):
        return "indexed"

    @property
    def display_name(self):
        return "Indexed"

    async def execute(self, context):
        found = get_aas_keywords(context.task, 1, context.work_dir, context.api_keys)
        context.output_data = {"keywords": dict(found)}
        return PhaseResult(PhaseStatus.COMPLETED, context)


def test_within_a_phase_they_belong_to_its_run(tmp_path):
    PhaseRegistry.register_class("indexed", Indexed)
    workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": "indexed"}])
    server = ModelServer(SCRIPT)
    with server, server.environment():
        executor = WorkflowExecutor(workflow, "t", tmp_path, api_keys=server.api_keys, verbose=False)
        executor.run_sync()
    assert executor.results[0].output_data["keywords"] == {"Cosmology": "http://astrothesaurus.org/uat/343"}
    parents = {info.workflow_id: info.parent for info in open_store(None).runs(tmp_path)}
    assert parents == {"w": None, "keywords": executor.context.run_id}
