"""`CMBAgent`, the class of earlier versions (check 40, lessons 4, 14 and 19)."""

import json
import logging
import warnings
from pathlib import Path

import pytest

from cmbagent import CMBAgent
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.testing import ModelServer, code, notes, plan
from scripted import PLOT, STEPS, KeyManager, models, two_steps

ONE = {"engineer": code(PLOT, filename="plot.py"), "researcher": notes("# Why")}


def solve(agent, server, *args, **kwargs):
    with server, server.environment():
        assert agent.solve(*args, **kwargs) is None
    return agent


def test_check_40_one_shot_as_the_readme_has_it(tmp_path):
    configs = {"engineer": {"model": "gpt-mine", "reasoning_effort": "high", "api_type": "openai"}}
    agent = CMBAgent(agent_llm_configs=configs, work_dir=tmp_path, api_keys=KeyManager(), verbose=False)
    server = ModelServer(ONE)
    solve(agent, server, "map the sky", max_rounds=5, initial_agent="engineer", mode="one_shot")
    assert agent.final_context["main_task"] == "map the sky"
    assert agent.final_context.data["displayed_images"] == [str(tmp_path / "data" / "plot_1.png")]
    history = agent.chat_result.chat_history
    assert history[0]["content"] == "map the sky" and history[-1]["content"] == agent.chat_result.summary
    assert server.agents() == ["engineer"] and server.calls[0].model == "gpt-mine"
    assert server.calls[0].body["reasoning_effort"] == "high"
    assert agent.last_agent.name in agent.agent_names
    assert Path(agent.work_dir) == tmp_path and isinstance(agent.work_dir, str)
    assert (agent.result["status"], agent.step) == ("completed", None)


def test_planning_when_a_planner_begins(tmp_path):
    server = two_steps()
    agent = CMBAgent(work_dir=str(tmp_path), api_keys={"OPENAI": "k"}, default_llm_model="gpt-5")
    context = {
        "feedback_left": 0, "maximum_number_of_steps_in_plan": 2, "mine": 7, "max_n_attempts": 1,
        "engineer_append_instructions": "Use SI units.", "planner_append_instructions": "Two steps.",
        "hardware_constraints": "one core",
    }  # fmt: skip
    solve(agent, server, "t", initial_agent="planner", shared_context=context, max_rounds=10, step=3)
    server.assert_calls(["planner", "engineer", "researcher"])
    assert "Two steps." in server.prompts("planner")[0] and "one core" in server.prompts("planner")[0]
    assert "Use SI units." in server.prompts("engineer")[0]
    assert (agent.final_context["mine"], agent.step) == (7, 3)
    assert agent.final_context["max_n_attempts"] == 1
    defaults = ("feedback_left", "maximum_number_of_steps_in_plan", "max_n_attempts")
    assert [agent.shared_context[name] for name in defaults] == [1, 3, 3]
    names = [message["name"] for message in agent.chat_result.chat_history]
    assert "planner" in names and "researcher_response_formatter" in names
    assert (tmp_path / "planning" / "final_plan.json").exists()
    assert not (tmp_path / "context").exists()


def test_carry_over_by_mode_and_a_plan_that_is_there_already(tmp_path):
    server = two_steps()
    agent = CMBAgent(
        work_dir=tmp_path, api_keys={"OPENAI": "k"}, mode="planning_and_control_context_carryover",
        agent_instructions={"executor": "run it", "planner": "Short."},
    )  # fmt: skip
    solve(agent, server, "t")
    server.assert_calls(["planner", "plan_reviewer", "planner", "engineer", "researcher"])
    assert "Short." in server.prompts("planner")[0]
    assert (tmp_path / "context" / "context_step_2.pkl").exists()

    server = models(STEPS, engineer=code("print(1)", filename="a.py"), researcher=notes("# R"))
    solve(agent, server, "t", shared_context={"final_plan": STEPS})
    server.assert_calls(["engineer", "researcher"])


def test_chat(tmp_path):
    server = ModelServer(ONE)
    agent = CMBAgent(work_dir=tmp_path, api_keys={"OPENAI": "k"}, mode="chat", chat_agent="researcher")
    solve(agent, server, "why")
    assert server.agents() == ["researcher"]


def test_costs_add_up_over_all_phases(tmp_path, capsys):
    heard = []
    agent = CMBAgent(
        work_dir=tmp_path, api_keys={"OPENAI": "k"}, mode="deep_research", verbose=False,
        callbacks=WorkflowCallbacks(on_cost_update=heard.append),
    )  # fmt: skip
    server = two_steps()
    solve(agent, server, "t")
    capsys.readouterr()
    table = agent.display_cost(name_append="mine")
    shown = capsys.readouterr().out
    assert shown.startswith("| Agent") and "plan reviewer" in shown and "| Total" in shown
    assert list(table.columns) == [
        "Agent", "Cost ($)", "Prompt Tokens", "Completion Tokens", "Total Tokens", "Model",
    ]  # fmt: skip
    assert table.index[-1] == "Total" and table["Agent"].iloc[-1] == "Total"
    tokens = table["Total Tokens"]
    assert tokens.iloc[:-1].sum() == tokens.iloc[-1] == sum(cost["total_tokens"] for cost in heard)
    dollars = sum(cost["total_cost"] for cost in heard)
    assert table["Cost ($)"].iloc[-1] == pytest.approx(dollars) and dollars > 0
    planner = table[table["Agent"] == "planner"]
    assert len(planner) == 1
    file = Path(agent.final_context["cost_report_path"])
    assert file.name.startswith("cost_report_mine_") and file.parent == tmp_path / "cost"
    rows = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert rows == agent.final_context["cost_dataframe"] == agent.chat_result.cost
    agent.display_cost(name_append="mine")
    assert len(list((tmp_path / "cost").glob("cost_report_mine_*.json"))) == 2
    reviewer = agent.get_agent_object_from_name("plan_reviewer")
    assert reviewer.agent.cost_dict["Total Tokens"] == [tokens[table["Agent"] == "plan reviewer"].iloc[0]]
    json.dumps(agent.final_context)


def test_a_model_without_a_price_costs_nothing_known(tmp_path, capsys):
    agent = CMBAgent(
        work_dir=tmp_path, api_keys={"OPENAI": "k"}, agent_llm_configs={"engineer": {"model": "my"}}
    )
    solve(agent, ModelServer(ONE), "t", initial_agent="engineer")
    table = agent.display_cost()
    assert table["Cost ($)"].isna().iloc[0] and table["Cost ($)"].iloc[-1] == 0
    assert "no price" in capsys.readouterr().out


def test_display_cost_without_pandas(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert CMBAgent(work_dir=tmp_path).display_cost() == [
        {"Agent": "Total", "Cost ($)": 0, "Prompt Tokens": 0, "Completion Tokens": 0, "Total Tokens": 0,
         "Model": None}
    ]  # fmt: skip


def test_agents_are_looked_up_and_unknown_ones_named(tmp_path):
    agent = CMBAgent(agent_llm_configs={"engineer": {"model": "m"}}, default_llm_model="gpt-5")
    engineer = agent.get_agent_object_from_name("engineer")
    assert agent.get_agent_from_name("engineer") is engineer
    assert (engineer.name, engineer.info["name"], engineer.llm_config["config_list"][0]["model"]) == (
        "engineer", "engineer", "m",
    )  # fmt: skip
    assert "engineer_response_formatter" in agent.agent_names
    assert [a.name for a in agent.agents] == agent.agent_names
    with pytest.raises(ValueError, match=r"Unknown agent: enginer\. Did you mean 'engineer'"):
        agent.get_agent_object_from_name("enginer")
    with pytest.raises(
        ValueError, match=r"Unknown agent: idea_setter\. Did you mean .*A task can be given to"
    ):
        agent.solve("t", initial_agent="idea_setter", mode="one_shot")
    with pytest.raises(ValueError, match=r"mode='oneshot' is not known\. Did you mean 'one_shot'"):
        CMBAgent(mode="oneshot")
    with pytest.raises(ValueError, match="mode='planing'"):
        agent.solve("t", mode="planing")
    assert agent.filter_and_combine_agent_names(["engineer", "x", "planner"]) == "engineer, planner"
    assert agent.clear_cache() is None and agent.set_planner_instructions() is None


def test_all_arguments_of_all_versions_are_accepted_with_one_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CMBAgent(
            cache_seed=None, temperature=0.00001, top_p=0.05, timeout=1200, max_round=50, platform="oai",
            model="gpt4o", llm_api_key=None, llm_api_type=None, make_vector_stores=False,
            agent_list=["camb", "classy_sz", "cobaya", "planck"], verbose=False, reset_assistant=False,
            agent_instructions={"executor": "x"}, agent_descriptions=None, agent_temperature=None,
            agent_top_p=None, chunking_strategy={}, select_speaker_prompt=None, select_speaker_message=None,
            intro_message=None, set_allowed_transitions=None, skip_executor=False, skip_memory=True,
            skip_rag_software_formatter=True, skip_rag_agents=True, default_llm_model="gpt-4.1",
            default_formatter_model="o3-mini", default_llm_config_list=[{}], agent_llm_configs={},
            agent_type="swarm", shared_context={}, work_dir=str(tmp_path), clear_work_dir=True,
            mode="planning_and_control", chat_agent=None, api_keys=None,
        )  # fmt: skip
    with pytest.warns(UserWarning) as caught:
        CMBAgent(
            make_vector_stores=["camb"], cache_seed=42, managed_mode=True,
            agent_instructions={"camb_agent": "x"},
            agent_llm_configs={"engineer": {"model": "m", "seed": 1}, "camb": {"model": "m"}},
        )  # fmt: skip
    (warning,) = caught
    assert str(warning.message) == (
        "CMBAgent() ignores agent_instructions['camb_agent'], agent_llm_configs['camb'], "
        "agent_llm_configs['engineer']['seed'], cache_seed, make_vector_stores, managed_mode: without effect "
        "here"
    )
    assert warning.filename == __file__


def test_sampling_and_time_limits_reach_the_models(tmp_path):
    agent = CMBAgent(
        work_dir=tmp_path, temperature=0.5, agent_top_p={"engineer": 0.9}, timeout=90, llm_api_key="sk-mine",
        agent_temperature={"researcher": 0.7}, agent_llm_configs={"engineer": {"model": "gpt-4o"}},
    )  # fmt: skip
    server = ModelServer(ONE)
    solve(agent, server, "t", initial_agent="engineer")
    assert (server.calls[0].body["temperature"], server.calls[0].body["top_p"]) == (0.5, 0.9)
    assert agent.agent_llm_configs["researcher"]["temperature"] == 0.7
    assert agent.api_keys["OPENAI"] == "sk-mine" and "sk-mine" not in repr(agent)
    assert agent._options()["call_deadline_seconds"] == 90


def test_it_touches_nothing_of_its_host(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cmbagent_output").mkdir()
    (tmp_path / "cmbagent_output" / "mine.txt").write_text("x")
    path, level = list(__import__("sys").path), logging.root.manager.disable
    first, second = CMBAgent(work_dir="new"), CMBAgent()
    first.shared_context["plans"].append("p")
    assert second.shared_context["plans"] == [] and first.shared_context is not second.shared_context
    assert (__import__("sys").path, logging.root.manager.disable) == (path, level)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".store"] == ["cmbagent_output"]
    assert (tmp_path / "cmbagent_output" / "mine.txt").exists()


def test_only_true_clears_and_the_method_does(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    agent = CMBAgent(work_dir=tmp_path, api_keys={"OPENAI": "k"})
    solve(agent, ModelServer(ONE), "t", initial_agent="engineer")
    assert (tmp_path / "mine.txt").exists()
    agent.clear_work_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_plot_for_notebooks(tmp_path):
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert CMBAgent(work_dir=tmp_path).show_plot("p.png").filename == str(tmp_path / "p.png")


def test_a_plan_of_unknown_agents_is_no_exit(tmp_path):
    server = models([("enginer", "x")], planner=plan(("enginer", "x")), engineer=code("print(1)"))
    agent = CMBAgent(work_dir=tmp_path, api_keys={"OPENAI": "k"})
    with pytest.raises(Exception, match="enginer"):
        solve(agent, server, "t", initial_agent="planner")


def test_what_failed_is_among_the_costs(tmp_path, capsys):
    agent = CMBAgent(work_dir=tmp_path, api_keys={"OPENAI": "k"}, mode="deep_research")
    server = ModelServer({"planner": "no plan at all"})
    with pytest.raises(RuntimeError, match="no usable plan"):
        solve(agent, server, "t")
    table = agent.display_cost()
    assert len(server.calls) == 2 and list(table["Agent"]) == ["planner", "Total"]
    assert table["Cost ($)"].iloc[-1] > 0


FINDERS = {
    "aas_keyword_finder": ("Interstellar dust", {"Interstellar dust": "http://astrothesaurus.org/uat/836"}),
    "aaai_keywords_finder": ("ML: Bayesian Learning", {"ML: Bayesian Learning": ""}),
    "list_keywords_finder": ("dust", {"dust": ""}),
}


@pytest.mark.parametrize("finder", FINDERS)
def test_keyword_agents_choose_as_their_functions_do(tmp_path, finder):
    keyword, expected = FINDERS[finder]
    config = {"model": "gpt-mine", "api_key": "sk-own", "reasoning_effort": "low"}
    agent = CMBAgent(work_dir=tmp_path, agent_llm_configs={finder: config}, api_keys={})
    context = {"text_input_for_AAS_keyword_finder": "On dust.", "N_AAS_keywords": 1, "mine": 7}
    if finder == "list_keywords_finder":
        context["AAS_keywords_string"] = "dust, gas"
    server = ModelServer({finder: {"keywords": [keyword, keyword]}})
    solve(agent, server, "t", max_rounds=2, initial_agent=finder, mode="one_shot", shared_context=context)
    assert agent.final_context["aas_keywords"] == expected
    assert (agent.final_context["mine"], agent.final_context["main_task"]) == (7, "t")
    # As the functions of earlier versions read it.
    said = next(m["content"] for m in agent.chat_result.chat_history if m["role"] == "user")
    assert [line.lstrip("-").strip() for line in said.splitlines() if line.startswith("-")] == [keyword]
    (call,) = server.calls
    assert "On dust." in call.prompt and call.model == "gpt-mine"
    assert call.body["reasoning_effort"] == "low"
    assert agent.last_agent.name == finder and agent.last_agent.llm_config["model"] == "gpt-mine"
    rows = agent.final_context["cost_dataframe"]
    assert [row["Agent"] for row in rows] == [finder.replace("_", " "), "Total"]
    assert len(list((tmp_path / "cost").glob("*.json"))) == 1


def test_a_keyword_agent_without_a_list_takes_its_own(tmp_path):
    (tmp_path / "old.txt").write_text("x")
    server = ModelServer({"list_keywords_finder": {"keywords": ["LOGIC"]}})
    agent = CMBAgent(work_dir=tmp_path, api_keys={"OPENAI": "k"}, clear_work_dir=True)
    solve(agent, server, "On proofs.", initial_agent="list_keywords_finder")
    assert "LOGIC" in agent.final_context["aas_keywords"] and "On proofs." in server.calls[0].prompt
    assert not (tmp_path / "old.txt").exists()
