"""Every path under which programs for other versions import something, and what calling it needs.

The table is the import surface of the specification, of the last release, and of the forks and papers that
build on them: `module: names`.
"""

import importlib
import inspect
import re
import subprocess
import sys
import warnings

import pytest

from cmbagent.workflows import WorkflowExecutor

FUNCTIONS = (
    "planning_and_control_context_carryover planning_and_control deep_research one_shot control"
    " human_in_the_loop"
)
LOADERS = "clean_work_dir load_context load_plan"
APPROVALS = (
    "ApprovalMode ApprovalConfig CheckpointType ApprovalResolution ApprovalCheckpoint DEFAULT_CONFIGS"
    " get_approval_config"
)
CALLBACKS = (
    "WorkflowCallbacks PlanInfo StepInfo StepStatus WorkflowPhase merge_callbacks create_print_callbacks"
    " create_null_callbacks"
)
MANAGER = (
    "PhaseExecutionManager PhaseExecutionConfig PhaseEventType WorkflowCancelledException"
    " managed_phase_execution"
)
BASE = "Phase PhaseConfig PhaseContext PhaseResult PhaseStatus"
KEYWORDS = "get_keywords get_keywords_from_aaai get_keywords_from_string get_aas_keywords"
UTILS = (
    "get_api_keys_from_env get_model_config work_dir_default default_llm_model default_formatter_model"
    " default_agents_llm_model default_agent_llm_configs default_llm_config_list AAS_keywords_dict"
    " AAS_keywords_string"
)
TABLE = {
    "cmbagent": f"{FUNCTIONS} {KEYWORDS} {CALLBACKS} {LOADERS} CMBAgent __version__ work_dir_default"
    " idea_generation idea_to_execution"
    " process_single_pdf process_folder arxiv_filter preprocess_task summarize_document summarize_documents"
    " print_cmbagent_logo make_rag_agents get_api_keys_from_env",
    "cmbagent.cmbagent": f"{FUNCTIONS} {KEYWORDS} {LOADERS} CMBAgent work_dir_default preprocess_task"
    " summarize_document summarize_documents",
    "cmbagent.cli": "main",
    "cmbagent.version": "__version__",
    "cmbagent.context": "shared_context",
    "cmbagent.literature": "process_tex_file_with_references",
    "cmbagent.ocr": "process_single_pdf process_folder",
    "cmbagent.arxiv_downloader": "arxiv_filter",
    "cmbagent.utils": UTILS,
    "cmbagent.utils.utils": UTILS,
    "cmbagent.callbacks": CALLBACKS,
    "cmbagent.database.approval_types": APPROVALS,
    "cmbagent.database.websocket_approval_manager": "WebSocketApprovalManager SimpleApprovalRequest",
    "cmbagent.phases": f"{BASE} {MANAGER} PhaseRegistry WorkflowContext PlanningPhase PlanningPhaseConfig"
    " ControlPhase ControlPhaseConfig OneShotPhase OneShotPhaseConfig HITLCheckpointPhase"
    " HITLCheckpointConfig IdeaGenerationPhase IdeaGenerationPhaseConfig CheckpointType",
    "cmbagent.phases.base": BASE,
    "cmbagent.phases.registry": "PhaseRegistry",
    "cmbagent.phases.context": "WorkflowContext",
    "cmbagent.phases.planning": "PlanningPhase PlanningPhaseConfig",
    "cmbagent.phases.control": "ControlPhase ControlPhaseConfig",
    "cmbagent.phases.one_shot": "OneShotPhase OneShotPhaseConfig",
    "cmbagent.phases.hitl_checkpoint": "HITLCheckpointPhase HITLCheckpointConfig HITLCheckpointPhaseConfig"
    " CheckpointType",
    "cmbagent.phases.idea_generation": "IdeaGenerationPhase IdeaGenerationPhaseConfig",
    "cmbagent.phases.hitl_planning": "HITLPlanningPhase HITLPlanningPhaseConfig",
    "cmbagent.phases.hitl_control": "HITLControlPhase HITLControlPhaseConfig",
    "cmbagent.phases.execution_manager": MANAGER,
    "cmbagent.workflows": f"{FUNCTIONS} {LOADERS} WorkflowDefinition WorkflowExecutor get_workflow"
    " list_workflows SYSTEM_WORKFLOWS DEEP_RESEARCH_WORKFLOW DEEP_RESEARCH_HITL_WORKFLOW"
    " DEEP_RESEARCH_FULL_HITL_WORKFLOW ONE_SHOT_WORKFLOW ONE_SHOT_RESEARCHER_WORKFLOW"
    " IDEA_GENERATION_WORKFLOW IDEA_TO_EXECUTION_WORKFLOW hitl_interactive_workflow"
    " hitl_planning_only_workflow hitl_error_recovery_workflow idea_generation idea_to_execution",
    "cmbagent.workflows.composer": "WorkflowDefinition WorkflowExecutor get_workflow list_workflows"
    " SYSTEM_WORKFLOWS DEEP_RESEARCH_WORKFLOW",
    "cmbagent.workflows.planning_control": "planning_and_control_context_carryover planning_and_control"
    " deep_research",
    "cmbagent.workflows.deep_research": "deep_research",
    "cmbagent.workflows.one_shot": "one_shot",
    "cmbagent.workflows.control": "control",
    "cmbagent.workflows.hitl_workflow": "hitl_interactive_workflow hitl_planning_only_workflow"
    " hitl_error_recovery_workflow",
    "cmbagent.workflows.utils": LOADERS,
    "cmbagent.workflows.legacy": f"{FUNCTIONS} {LOADERS}",
    "cmbagent.workflows.legacy.planning_control": "planning_and_control_context_carryover"
    " planning_and_control deep_research",
    "cmbagent.workflows.legacy.one_shot": "one_shot",
    "cmbagent.workflows.legacy.control": "control",
    "cmbagent.workflows.legacy.utils": LOADERS,
}
PATHS = [(module, name) for module, names in TABLE.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), PATHS, ids=[".".join(path) for path in PATHS])
def test_a_path(module, name):
    program = f"from {module} import {name}"
    found = {}
    exec(program, found)
    assert found[name] is not None
    # One object, whatever the path it was imported by.
    home = importlib.import_module("cmbagent")
    if callable(found[name]) and name in home.__all__:
        assert found[name] is getattr(home, name)


def test_all_paths_at_once_in_a_fresh_process_and_in_any_order():
    for order in (list(TABLE), list(reversed(TABLE))):
        lines = [f"from {module} import {', '.join(TABLE[module].split())}" for module in order]
        lines += [
            "import cmbagent",
            "assert callable(cmbagent.one_shot) and callable(cmbagent.control)",
            "assert callable(cmbagent.workflows.one_shot) and callable(cmbagent.workflows.deep_research)",
        ]
        command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_01_02_03_names_callers_use():
    import cmbagent
    from cmbagent.cmbagent import one_shot, planning_and_control_context_carryover

    assert one_shot is cmbagent.one_shot
    assert planning_and_control_context_carryover is cmbagent.planning_and_control_context_carryover
    assert set(cmbagent.__all__) <= set(dir(cmbagent))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cmbagent.no_such_name


# The parameters of each function over all versions; whoever passes them by name must be understood.
PARAMETERS = {
    "human_in_the_loop": "task work_dir max_rounds max_n_attempts engineer_model researcher_model"
    " web_surfer_model agent api_keys",
    "get_keywords": "input_text n_keywords work_dir api_keys kw_type",
    "get_keywords_from_aaai": "input_text n_keywords work_dir api_keys",
    "get_keywords_from_string": "input_text keywords_string n_keywords work_dir api_keys",
    "get_aas_keywords": "input_text n_keywords work_dir api_keys",
    "preprocess_task": "text work_dir clear_work_dir max_workers max_depth summarizer_model"
    " summarizer_response_formatter_model skip_arxiv_download skip_ocr skip_summarization callbacks"
    " clear_work_dir_flag",
    "summarize_document": "markdown_document_path work_dir clear_work_dir summarizer_model"
    " summarizer_response_formatter_model",
    "summarize_documents": "folder_path work_dir_base clear_work_dir summarizer_model"
    " summarizer_response_formatter_model max_workers max_depth",
    "arxiv_filter": "input_text work_dir callbacks",
    "process_single_pdf": "pdf_path save_markdown save_json save_text output_dir meta_data_path work_dir"
    " callbacks",
    "process_folder": "folder_path save_markdown save_json save_text output_dir meta_data_path max_depth"
    " max_workers work_dir callbacks",
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_in_their_order(name):
    import cmbagent

    known = list(inspect.signature(getattr(cmbagent, name)).parameters)
    assert known[: len(wanted := PARAMETERS[name].split())] == wanted


# What the functions that run agents were called with over all versions; some of it has no effect any more.
PLAN = """
    max_rounds_planning max_rounds_control max_plan_steps n_plan_reviews plan_instructions
    engineer_instructions researcher_instructions hardware_constraints max_n_attempts planner_model
    plan_reviewer_model engineer_model researcher_model web_surfer_model retrieve_assistant_model
    idea_maker_model idea_hater_model work_dir researcher_filename default_llm_model
    default_formatter_model api_keys
"""
MASSGEN = """
    use_massgen massgen_config massgen_verbose massgen_enable_logging massgen_use_for_retries
"""
CARRY_OVER = """
    camb_context_model plot_judge_model restart_at_step clear_work_dir approval_config callbacks
    approval_manager hitl_after_planning parent_run_id stage_name skip_rag_agents make_vector_stores
"""
ONE_SHOT = """
    max_rounds max_n_attempts engineer_model researcher_model web_surfer_model plot_judge_model
    camb_context_model default_llm_model default_formatter_model researcher_filename agent work_dir
    api_keys clear_work_dir evaluate_plots max_n_plot_evals inject_wrong_plot callbacks initial_agent
    model default_llm_model_arg default_formatter_model_arg
"""
CONTROL = """
    plan max_rounds max_plan_steps n_plan_reviews plan_instructions engineer_instructions
    researcher_instructions hardware_constraints max_n_attempts planner_model plan_reviewer_model
    engineer_model researcher_model web_surfer_model retrieve_assistant_model idea_maker_model
    idea_hater_model plot_judge_model work_dir clear_work_dir api_keys
"""
CALLS = {
    "planning_and_control_context_carryover": PLAN + MASSGEN + CARRY_OVER,
    "planning_and_control": PLAN,
    "one_shot": MASSGEN + ONE_SHOT,
    "control": CONTROL,
}
STEPS = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": []}]
VALUES = {
    "plan": STEPS,
    "agent": "engineer",
    "initial_agent": "engineer",
    "restart_at_step": -1,
    "inject_wrong_plot": False,
    "api_keys": {"OPENAI": "x"},
}
NOTHING = {
    "approval_config", "callbacks", "approval_manager", "parent_run_id", "stage_name", "massgen_config",
    "researcher_filename",
}  # fmt: skip


def value(name):
    """One that a program might pass."""
    if name in VALUES:
        return VALUES[name]
    if name in NOTHING:
        return None
    if name.endswith(("_model", "_arg")) or name == "model":
        return "gpt-4.1"
    if name.endswith(("instructions", "constraints")):
        return ""
    return 1 if name.startswith(("max_", "n_")) else False


@pytest.mark.parametrize("name", CALLS)
def test_all_arguments_of_all_versions_are_accepted_with_one_warning(name, planned, tmp_path):
    import cmbagent

    arguments = {each: value(each) for each in CALLS[name].split()} | {"work_dir": str(tmp_path)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        planned(getattr(cmbagent, name), task="t", **arguments)
    ours = [str(warning.message) for warning in caught]
    without_effect = {"planning_and_control": 0}.get(name, 1)
    assert len(ours) == without_effect, ours
    assert all(message.startswith(f"{name}() ignores ") for message in ours)


def test_names_whose_work_is_no_longer_done(capsys):
    import cmbagent

    cmbagent.print_cmbagent_logo()
    assert capsys.readouterr().out == f"cmbagent {cmbagent.__version__}\n"
    with pytest.warns(UserWarning, match="preprocess_task"):
        cmbagent.make_rag_agents(["camb"])


def test_what_is_gone_says_what_to_use_instead():
    import cmbagent
    from cmbagent import _former

    known = {f"{module}.{name}" for module, name in PATHS}
    assert not known & set(_former.GONE)
    for path, instead in _former.GONE.items():
        module, _, name = path.rpartition(".")
        for program in (f"from {module} import {name}", f"import {path}", f"from {path} import something"):
            with pytest.raises(ImportError) as caught:
                exec(program)
            assert str(caught.value) == f"{path} is no part of this version: {instead}"
        # Whoever looks before leaping finds nothing.
        assert not hasattr(importlib.import_module(module), name)
        for said in re.findall(r"(\w+)\(\)", instead):
            homes = (cmbagent, cmbagent.workflows, WorkflowExecutor)
            assert any(callable(getattr(home, said, None)) for home in homes), said
    with pytest.raises(AttributeError, match=r"no attribute 'quick_task'; .*: use one_shot\(\)$"):
        cmbagent.quick_task("t")
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec("from cmbagent.workflows import nonsense")
