import pytest

import cmbagent
from cmbagent.approvals import AutoApprovalManager, ConsoleApprovalManager
from cmbagent.approvals.request import ApprovalResult
from cmbagent.phases import PhaseRegistry
from cmbagent.testing import ModelServer, code, ideas, notes, plan, review
from cmbagent.workflows import idea_generation, idea_to_execution
from scripted import run

CRITIQUE = {"critiques": [{"title": "Lensing", "weaknesses": "done before"}]}
MADE = ideas(("Lensing", "Delensed spectra."), ("Dust", "Dust at high latitude."))


def server(*, chosen="Dust", **more):
    selected = ideas((chosen, f"{chosen} it is."))
    return ModelServer({"idea_maker": [MADE, MADE, selected], "idea_hater": CRITIQUE, **more})


def executing(**changes):
    answers = {
        "planner": plan(("engineer", "measure the dust"), ("researcher", "write")),
        "plan_reviewer": review("Name the units."),
        "engineer": code("print('x = 4.25 K')"),
        "researcher": notes("# Report\n\n4.25 K"),
    }
    return server(**{**answers, **changes})


class Chooses:
    """Answers the first question with an idea, all others with approval."""

    def __init__(self, idea):
        self.idea, self.asked = idea, []

    def create_approval_request(self, **question):
        self.asked.append(question)
        return type("Request", (), {"id": str(len(self.asked))})()

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        if request_id == "1":
            return ApprovalResult("modify", None, {"selected_idea": self.idea})
        return ApprovalResult("approve")


def test_the_functions_are_names_of_the_package():
    assert cmbagent.idea_generation is idea_generation
    assert cmbagent.workflows.idea_to_execution is idea_to_execution


def test_phases_of_the_functions(planned, tmp_path):
    call = planned(idea_generation, "t", 20, 5, 2, "m", "h", tmp_path)
    kinds = [phase["type"] for phase in call.phases]
    assert kinds == ["idea_generation", "hitl_checkpoint"]
    settings = {
        "max_rounds": 20,
        "n_ideas": 5,
        "n_reviews": 2,
        "idea_maker_model": "m",
        "idea_hater_model": "h",
        "params": {},
    }
    assert call.phases[0]["config"] == settings
    alone = planned(idea_generation, "t", work_dir=tmp_path, hitl_after_ideas=False)
    assert [phase["type"] for phase in alone.phases] == ["idea_generation"]
    whole = planned(idea_to_execution, "t", work_dir=tmp_path, plan_instructions=None, engineer_model="e")
    kinds = [phase["type"] for phase in whole.phases]
    assert kinds == ["idea_generation", "hitl_checkpoint", "planning", "hitl_checkpoint", "control"]
    assert PhaseRegistry.create_from_dict(whole.phases[2]).config.plan_instructions == ""
    assert whole.phases[2]["config"]["max_plan_steps"] == 5
    assert whole.phases[4]["config"]["engineer_model"] == "e"
    short = planned(idea_to_execution, "t", work_dir=tmp_path, hitl_enabled=False)
    assert [phase["type"] for phase in short.phases] == ["idea_generation", "planning", "control"]


def test_ideas_are_made_criticised_and_selected(tmp_path):
    models = server()
    result = run(models, idea_generation, "CMB maps", n_ideas=2, work_dir=tmp_path)
    models.assert_calls(["idea_maker", "idea_hater", "idea_maker", "idea_maker"])
    assert [idea["title"] for idea in result["ideas"]] == ["Lensing", "Dust"]
    assert result["reviews"][0][0]["weaknesses"] == "done before"
    assert result["selected_idea"]["title"] == result.final_context["selected_idea"]["title"] == "Dust"
    assert result["status"] == "completed" and result["total_time"] > 0
    names = [message["name"] for message in result["chat_history"]]
    assert names[0] == "user" and "idea_maker_nest" in names and "idea_hater_response_formatter" in names
    assert list((tmp_path / "ideas").glob("ideas_*.json"))


def test_a_human_chooses_and_the_idea_is_carried_out(tmp_path):
    models, human = executing(), Chooses(1)
    result = run(models, idea_to_execution, "CMB maps", n_ideas=2, work_dir=tmp_path, approval_manager=human)
    assert result["selected_idea"]["title"] == "Lensing"
    for agent in ("planner", "plan_reviewer", "engineer", "researcher"):
        prompt = models.prompts(agent)[0]
        assert "CMB maps" in prompt and "Delensed spectra." in prompt and "Dust it is." not in prompt, agent
    assert "Idea 2: Dust" in human.asked[0]["message"]
    assert [question["checkpoint_type"] for question in human.asked] == ["custom", "after_planning"]
    assert result["final_context"]["main_task"] == "CMB maps"
    assert result["final_context"]["improved_main_task"].endswith("Delensed spectra.")
    assert result["chat_history"][0]["content"] == "CMB maps"
    assert result["idea_chat_history"][-1]["name"] == "idea_maker_nest"
    assert result["plan"][0]["sub_task"] == "measure the dust"


def test_a_rejection_ends_the_run_before_it_is_planned(tmp_path):
    models = executing()
    with pytest.raises(RuntimeError, match="Phase hitl_checkpoint failed: Rejected by user"):
        run(models, idea_to_execution, "t", work_dir=tmp_path, approval_manager=AutoApprovalManager("reject"))
    assert "planner" not in [call.agent for call in models.calls]


def test_at_the_terminal_an_idea_is_picked_or_written(tmp_path):
    for lines, title in ((["m", "7", "1", ""], "Lensing"), (["m", "Cold spot", "be brief"], "Cold spot")):
        said, shown = iter(lines), []
        human = ConsoleApprovalManager(ask=lambda _, said=said: next(said), show=shown.append)
        result = run(server(), idea_generation, "t", n_ideas=2, work_dir=tmp_path, approval_manager=human)
        assert result["selected_idea"]["title"] == title
        text = shown[0]
        assert text.count("Lensing") == 1 and "Delensed spectra." in text and "Selected so far: Dust" in text


def test_recorded_and_replayed(tmp_path):
    tape = tmp_path / "tape.jsonl"
    settings = {"approval_manager": AutoApprovalManager()}
    models = executing()
    first = run(models, idea_to_execution, "t", work_dir=tmp_path / "a", record=tape, **settings)
    again = idea_to_execution("t", work_dir=tmp_path / "b", replay=tape, strict=True, **settings)
    assert again["selected_idea"] == first["selected_idea"]
    assert again["status"] == first["status"] == "completed"
    models.assert_calls(
        [
            *("idea_maker", "idea_hater", "idea_maker", "idea_maker"),
            *("planner", "plan_reviewer", "planner", "engineer", "researcher"),
        ]
    )
