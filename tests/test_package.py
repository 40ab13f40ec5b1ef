import json
import subprocess
import sys

import pytest

import cmbagent

NAMES = [
    "planning_and_control_context_carryover", "deep_research", "planning_and_control", "one_shot", "control",
    "load_plan", "load_context", "clean_work_dir", "get_api_keys_from_env", "WorkflowCallbacks", "PlanInfo",
    "StepInfo", "StepStatus", "WorkflowPhase", "merge_callbacks", "create_print_callbacks",
    "create_null_callbacks", "WorkflowExecutor", "WorkflowDefinition", "get_workflow",
]  # fmt: skip


def in_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    assert callable(getattr(cmbagent, name))
    assert name in dir(cmbagent)


def test_exports_are_complete():
    assert all(getattr(cmbagent, name) is not None for name in cmbagent.__all__)


def test_completion_offers_what_is_meant_to_be_used():
    names = [name for name in dir(cmbagent) if not name.startswith("_")]
    modules = {name for name in names if isinstance(getattr(cmbagent, name), type(sys))}
    assert set(names) - modules == {name for name in cmbagent.__all__ if not name.startswith("_")}
    assert all(sys.modules[f"cmbagent.{name}"] for name in modules)


def test_mistyped_argument():
    with pytest.raises(TypeError, match=r"'engineer_modle'\. Did you mean 'engineer_model'\?"):
        cmbagent.one_shot("t", engineer_modle="m")


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cmbagent.nonsense


def test_old_module_path_gives_the_same_objects():
    from cmbagent.cmbagent import one_shot, planning_and_control_context_carryover

    assert one_shot is cmbagent.one_shot
    assert planning_and_control_context_carryover is cmbagent.planning_and_control_context_carryover


def test_submodules_named_like_functions():
    code = """
import cmbagent.workflows.one_shot, cmbagent.workflows.control, cmbagent.workflows.deep_research
import cmbagent.workflows.legacy.one_shot
from cmbagent.workflows import one_shot, control, deep_research
from cmbagent.workflows.one_shot import one_shot as a
from cmbagent.workflows.deep_research import deep_research as b
from cmbagent.workflows.legacy import one_shot as c
from cmbagent.workflows.legacy.planning_control import planning_and_control_context_carryover as d
from cmbagent.workflows.planning_control import planning_and_control_context_carryover as e
import cmbagent.workflows.control
print(one_shot is a is c, callable(control), deep_research is b is d is e)
print(callable(cmbagent.workflows.control))
"""
    assert in_fresh_process(code).split() == ["True"] * 4


def test_version_is_the_real_one():
    from cmbagent import _core

    assert cmbagent.__version__ == _core.__version__
    assert cmbagent.__version__[0].isdigit() and cmbagent.__version__.count(".") >= 2


def test_import_has_no_side_effects(tmp_path):
    code = f"""
import json, logging, os, sys
os.chdir({str(tmp_path)!r})
before = set(sys.modules)
root = list(logging.root.handlers), logging.root.manager.disable, logging.root.level
import cmbagent
new = {{m.partition('.')[0] for m in set(sys.modules) - before}}
after = list(logging.root.handlers), logging.root.manager.disable, logging.root.level
foreign = sorted(n for n in new if n not in sys.stdlib_module_names and n != 'cmbagent')
import cmbagent.workflows
heavy = [m for m in ('pandas', 'numpy', 'pydantic', 'IPython', 'rich', 'typer') if m in sys.modules]
print(json.dumps([foreign, 'asyncio' in new, root == after, os.listdir(), heavy]))
"""
    foreign, asyncio_imported, same_logging, files, heavy = json.loads(in_fresh_process(code))
    assert (foreign, asyncio_imported, same_logging, files, heavy) == ([], False, True, [], [])
