"""The compatibility checks and the lessons of the original: number, what it is about, and its tests.

A test is named `file::function`; files of the engine end in `.rs`. Checks from number 76 on are about REST.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent

CHECKS = """
# What real callers do
1   the function most callers use is exported
    test_package::test_exports
    test_import_paths::test_check_01_02_03_names_callers_use
2   names of the package, as far as this version has them
    test_contract::test_check_02_names_of_the_package
    test_import_paths::test_check_01_02_03_names_callers_use
3   the module cmbagent.cmbagent
    test_package::test_old_module_path_gives_the_same_objects
    test_import_paths::test_check_01_02_03_names_callers_use
4   cmbagent.workflows.planning_control
    test_package::test_submodules_named_like_functions
5   modules that research scripts import
    test_contract::test_check_05_names_of_research_scripts
    test_package::test_submodules_named_like_functions
6   functions named like their submodules
    test_package::test_submodules_named_like_functions
7   calls of a paper writer: idea, method, experiment
    test_contract::test_check_07_08_15_calls_of_a_paper_writer
    test_planning_control::test_whole_run_as_a_paper_writer_calls_it
8   key holders without get, whose values may be None
    test_contract::test_check_07_08_15_calls_of_a_paper_writer
9   the last message of idea_maker_nest, with hard access to names
    test_planning_control::test_ideas_as_a_paper_writer_reads_them
10  its header is found by a pattern
    test_planning_control::test_ideas_as_a_paper_writer_reads_them
11  the markdown of the researcher by two patterns
    test_planning_control::test_whole_run_as_a_paper_writer_calls_it
12  a fence within that markdown stays
    test_planning_control::test_whole_run_as_a_paper_writer_calls_it
13  displayed_images are absolute paths that can be moved
    test_planning_control::test_whole_run_as_a_paper_writer_calls_it
14  a run without plots
    test_planning_control::test_run_without_plots
15  empty hardware constraints, large limits
    test_contract::test_check_07_08_15_calls_of_a_paper_writer
16  restart after an interrupted step
    test_planning_control::test_restart_after_an_interrupted_run
    test_contract::test_check_16_restart_skips_planning
    test_contract::test_check_16_results_moved_away_after_the_run
    test_restart::test_check_16_17_restart_in_a_directory_of_the_original
17  restart at the first step
    test_contract::test_check_17_restart_at_the_first_step_uses_the_context_of_planning
    test_restart::test_check_16_17_restart_in_a_directory_of_the_original
18  no restart
    test_planning_control::test_no_restart
19  the plan's file
    test_planning_control::test_files_of_a_run
    test_reports::test_check_19_20_contents_are_as_existing_readers_expect
20  the other files of a run
    test_planning_control::test_files_of_a_run
    test_reports::test_check_19_20_contents_are_as_existing_readers_expect
21  what the engineer writes into its directory
    test_planning_control::test_engineer_writes_into_the_control_directory
22  one key is enough
    test_contract::test_check_22_one_key_is_enough
23  a key that lacks is named
    test_planning_control::test_missing_key_is_named
24  one_shot as earlier tests call it
    test_contract::test_check_24_25_one_shot_as_earlier_tests_call_it
    test_one_shot::test_engineer
25  its times can be formatted
    test_contract::test_check_24_25_one_shot_as_earlier_tests_call_it
26  final_context has .data, with the images
    test_contract::test_check_26_displayed_images_with_evaluate_plots
27  the directory of the data
    test_planning_control::test_whole_run_as_a_paper_writer_calls_it
28  where a script wrote its table
    test_one_shot::test_engineer
29  final_context is a dict with a summary of the steps
    test_contract::test_check_29_46_context_and_first_message
30  initial_agent is agent
    test_one_shot::test_other_names
    test_one_shot::test_researcher
31  costs by callback, counted once
    test_one_shot::test_cost_callback
    test_reports::test_check_31_lesson_19_costs_are_what_the_server_billed
32  texts may be None
    test_planning_control::test_texts_may_be_none
33  keywords as a list and as a mapping
    test_keywords::test_check_33_unesco_serves_as_list_and_as_mapping
34  the other vocabularies
    test_keywords::test_check_34_aaai_is_a_list_and_aas_a_dict_of_addresses
35  a task without links stays as it is
    test_documents::test_check_35_a_task_without_links_stays_as_it_is
36  exhausted attempts: returned by functions, raised by the executor
    test_planning_control::test_exhausted_attempts_are_returned
    test_contract::test_check_36_exhausted_attempts_are_returned_by_every_function
    test_workflows::test_exhausted_attempts_raise
37  runs in threads keep apart
    test_one_shot::test_two_threads
    test_contract::test_check_37_three_runs_in_three_threads
38  a conversation with a human
    test_conversation::test_check_38_turns_until_the_human_is_content
39  control carries out a plan's file
    test_control::test_whole_run
    test_contract::test_check_39_plan_from_an_earlier_run
40  the class CMBAgent
    test_agent::test_check_40_one_shot_as_the_readme_has_it
41  arguments of a task executor
    test_contract::test_check_41_arguments_of_a_task_executor
42  what a task executor reads
    test_workflows::test_deep_research
    test_contract::test_check_42_what_a_task_executor_reads
43  the interactive workflow inside a running loop
    test_hitl::test_interactive_workflow_within_a_loop
44  a phase written with PhaseExecutionManager
    test_execution_manager::test_a_phase_in_a_workflow
45  chat_history is JSON
    test_planning_control::test_whole_run_as_a_paper_writer_calls_it
    test_contract::test_check_45_roles_and_contents
46  its first message is the task
    test_contract::test_check_29_46_context_and_first_message
# The phase system
47  names of cmbagent.phases
    test_spec::test_option_2_individual_phase
48  defaults of configurations
    test_spec::test_phase_configurations
    test_base::test_config_defaults
    test_base::test_configs_are_the_engines
49  defaults are not shared
    test_base::test_checkpoint_config
50  a phase from its definition
    test_registry::test_create_from_dict
51  a definition without a type
    test_registry::test_definition_without_type
52  an unknown type
    test_registry::test_unknown_type
53  what is told of a type
    test_registry::test_info
54  a workflow without a description
    test_composer::test_definition_defaults
55  a phase of a user's between planning and control
    test_spec::test_adding_a_new_phase
    test_workflows::test_own_phase_between_planning_and_control
56  the system workflows
    test_composer::test_system_workflows
    test_composer::test_every_system_workflow_can_be_built
    test_spec::test_system_workflows_of_the_table
57  an unknown workflow
    test_composer::test_get_and_list
58  the status before a run
    test_composer::test_status_before_the_run
59  a phase that is switched off leaves a hole
    test_composer::test_skipped_phase_leaves_a_hole
60  control without a plan
    test_composer::test_validation_error
61  a phase that fails
    test_composer::test_failed_phase
62  stop from within a phase
    test_composer::test_stop_from_within
63  a checkpoint with nobody to ask
    test_composer::test_checkpoint_without_manager
    phases/checkpoint.rs::nobody_to_ask_approves_with_a_warning
64  a checkpoint rejected
    test_composer::test_checkpoint_rejected
65  a plan changed at a checkpoint is the one carried out
    test_workflows::test_modified_plan_is_the_one_carried_out
    phases/checkpoint.rs::an_edited_plan_is_executed_as_it_was_edited
66  nobody answers in time
    test_composer::test_checkpoint_timeout
    phases/checkpoint.rs::every_outcome_has_the_status_and_output_of_the_contract
67  how the manager is asked
    test_composer::test_checkpoint_request
68  asked once after each step
    test_contract::test_check_68_asked_once_after_each_of_three_steps
    test_workflows::test_full_hitl_asks_after_each_step
69  the context of a phase and its successor
    test_base::test_context_to_dict_keeps_secrets_out
    test_base::test_copy_for_next_phase
    state.rs::handing_over_makes_the_output_the_input_and_merges_what_is_shared
70  a saved context holds no key
    test_context::test_save_and_load
    test_workflows::test_no_key_reaches_disk
71  the context as JSON
    test_context::test_to_dict_and_json
72  a callback that raises
    test_composer::test_failing_hook_does_not_matter
    test_callbacks::test_failing_hook_is_disabled_after_five_in_a_row
73  a callback that ends the run
    test_composer::test_should_continue_cancels
    test_workflows::test_cancelled_between_steps
74  planning on its own
    test_spec::test_option_2_individual_phase
    test_workflows::test_planning_phase_alone
75  a phase is tried again
    test_composer::test_retry
    phases/limits.rs::a_phase_is_tried_again_as_often_as_it_says
"""

LESSONS = """
# Installing and importing
1   the package can be imported
    test_package::test_import_has_no_side_effects
2   few dependencies
    test_lessons::test_lesson_02_few_dependencies
3   a light import
    test_package::test_import_has_no_side_effects
4   the logging of the host is left alone
    test_package::test_import_has_no_side_effects
    test_lessons::test_lesson_04_25_26_a_run_leaves_the_process_and_the_home_alone
5   nothing is fixed at import
    test_utils::test_work_dir_default_follows_the_current_directory
    test_utils::test_keys_from_environment
6   the real version
    test_package::test_version_is_the_real_one
# Losing the user's files
7   a run elsewhere leaves the default directory alone
    test_used_directory::test_lesson_07_a_run_elsewhere_leaves_the_default_directory_alone
8   files in planning/ and control/ stay
    test_used_directory::test_lesson_08_second_run_in_the_same_directory
# Crashes, resuming, limits
9   a restart knows all earlier steps
    test_restart::test_lesson_09_a_step_that_the_original_forgot
    test_planning_control::test_restart_that_cannot_work
10  a step that exhausts its attempts says so
    test_lessons::test_lesson_10_a_step_that_exhausts_its_attempts_says_so
    test_lessons::test_lesson_10_the_second_opinion_is_no_condition
11  too few rounds name the setting
    test_lessons::test_lesson_11_too_few_rounds_name_the_setting
12  what the provider says is told
    test_lessons::test_lesson_12_what_the_provider_says_is_told
13  a limit for scripts, and no orphans
    test_lessons::test_lesson_13_a_limit_for_scripts
    exec.rs::killing_the_host_leaves_no_process_behind
14  an unknown agent is an error
    test_lessons::test_lesson_14_an_unknown_agent_in_a_plan
    test_one_shot::test_unknown_agent
    test_agent::test_agents_are_looked_up_and_unknown_ones_named
15  the work directory may be a text
    test_conversation::test_check_38_turns_until_the_human_is_content
    test_one_shot::test_engineer
    test_planning_control::test_plain_planning_and_control
16  a plan reaches control as it was
    test_lessons::test_lesson_16_a_plan_reaches_control_as_it_was
17  the exit code decides, steps are counted
    test_lessons::test_lesson_17_the_exit_code_decides_and_steps_are_counted
18  inside a running loop
    test_lessons::test_lesson_18_inside_a_running_loop
    test_everywhere::test_a_function_runs_to_its_end
    test_composer::test_run
# Money
19  costs are what was billed
    test_reports::test_check_31_lesson_19_costs_are_what_the_server_billed
20  no calls for bookkeeping
    test_lessons::test_lesson_20_27_six_calls_for_three_steps_and_a_review
# Security
21  scripts see no key
    test_secrets::test_lesson_21_24_a_whole_run_through_three_providers
22  scripts run with this interpreter
    test_lessons::test_lesson_22_scripts_run_with_this_interpreter
23  files of the work directory are data
    test_restart::test_lesson_23_a_restart_executes_nothing_from_the_directory
    test_restore::test_code_is_refused
24  keys are neither printed nor saved
    test_secrets::test_lesson_21_24_a_whole_run_through_three_providers
    test_context::test_save_and_load
25  nothing in the home directory
    test_lessons::test_lesson_04_25_26_a_run_leaves_the_process_and_the_home_alone
# Slowness
26  steps leave nothing behind in the process
    test_lessons::test_lesson_04_25_26_a_run_leaves_the_process_and_the_home_alone
27  six calls for three steps and a review
    test_lessons::test_lesson_20_27_six_calls_for_three_steps_and_a_review
28  structured answers by the provider's own means
    llm/dialects.rs::schemas_step_down_and_are_remembered
# Contract traps
30  chat_history holds all steps, each message a name
    test_contract::test_check_45_roles_and_contents
31  files and contexts are JSON
    test_reports::test_lesson_31_json_is_json
32  prompts are the same in every run
    test_lessons::test_lesson_32_prompts_are_the_same_in_every_run
33  reports of one second are two files
    test_lessons::test_lesson_33_reports_of_the_same_second
"""
OBSERVATIONS = {29: "how memory was measured there"}


@cache
def functions(file):
    """The names of a file's tests."""
    path = HERE / (file if file.endswith(".rs") else f"{file}.py")
    text = path.read_text()
    if file.endswith(".rs"):
        return set(re.findall(r"#\[(?:tokio::)?test[^\n]*\]\s+(?:async )?fn (\w+)", text))
    return {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def read(table):
    rows, tests = {}, []
    for line in table.strip().splitlines():
        if line.startswith(" "):
            tests.append(line.strip())
        elif not line.startswith("#"):
            tests = []
            rows[int(line[:4])] = (line[4:], tests)
    return rows


ROWS = {"check": read(CHECKS), "lesson": read(LESSONS)}


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind, rows in ROWS.items() for number in rows]
)
def test_a_row_has_its_tests(kind, number):
    what, tests = ROWS[kind][number]
    assert tests, f"{kind} {number} ({what}) has no test"
    for test in tests:
        file, _, name = test.partition("::")
        assert name in functions(file), f"{kind} {number} ({what}) names {test}, which does not exist"


def test_no_number_is_left_out():
    assert sorted(ROWS["check"]) == list(range(1, 76))
    assert sorted([*ROWS["lesson"], *OBSERVATIONS]) == list(range(1, 34))


@pytest.mark.parametrize("kind", ROWS)
def test_every_test_that_names_a_number_is_listed_under_it(kind):
    for path in HERE.glob("test_*.py"):
        for name in functions(path.stem):
            numbers = re.search(rf"_{kind}((?:_\d\d)+)_", name)
            for number in numbers[1].split("_")[1:] if numbers else []:
                _, tests = ROWS[kind].get(int(number), ("", []))
                assert f"{path.stem}::{name}" in tests, f"{path.stem}::{name} belongs under {kind} {number}"
