"""Reports are valid JSON and add up to what was billed, whatever the function, and whatever fails."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cmbagent
from cmbagent.approvals import AutoApprovalManager
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import CmbagentError
from cmbagent.store import Store
from cmbagent.testing import Fault, ModelServer, Reply, code, ideas, notes, plan, review
from scripted import STEPS

PRICES = {
    "gpt-4.1-2025-04-14": (2.0, 8.0),
    "o3-mini-2025-01-31": (1.1, 4.4),
    "gpt-4o-2024-11-20": (2.5, 10.0),
}
"""Dollars per million tokens, prompt and completion."""
NUMBERS = ("Cost ($)", "Prompt Tokens", "Completion Tokens", "Total Tokens")
SUMMARY = {
    "title": "Dust", "authors": [], "date": "", "journal": "", "abstract": "", "keywords": [],
    "key_findings": [], "scientific_software": [], "data_sources": [], "data_sets": [],
    "data_analysis_methods": [],
}  # fmt: skip
ANSWERS = {
    "planner": plan(("engineer", "compute"), ("idea_maker", "think"), ("researcher", "write")),
    "plan_reviewer": review("Name the units."),
    "engineer": code("print('x = 4.25 K')"),
    "researcher": notes("# Report\n\n4.25 K"),
    "idea_maker": ideas(("Dust", "Dust at high latitude.")),
    "idea_hater": {"critiques": [{"title": "Dust", "weaknesses": "done before"}]},
    "second_opinion": "The name is wrong.",
    "list_keywords_finder": {"keywords": ["LOGIC", "ASTRONOMY & ASTROPHYSICS", "Galaxies"]},
    "aaai_keywords_finder": {"keywords": ["ML: Bayesian Learning", "no such"]},
    "aas_keyword_finder": {"keywords": ["Cosmology"]},
    "summarizer": SUMMARY,
}


def with_documents(function):
    def call(task, work_dir, **more):
        texts = Path(work_dir).parent / "texts"
        texts.mkdir(exist_ok=True)
        for name in ("a.md", "b.md"):
            (texts / name).write_text("# Dust")
        target = texts if function is cmbagent.summarize_documents else texts / "a.md"
        return function(target, work_dir, **more)

    return call


def with_class(task, work_dir, **more):
    agent = cmbagent.CMBAgent(work_dir=work_dir, mode="deep_research", **more)
    agent.solve(task)
    agent.display_cost()
    rows = json.loads(Path(agent.final_context["cost_report_path"]).read_text())
    # That report is of the whole task, beside those of its parts.
    Path(agent.final_context["cost_report_path"]).unlink()
    assert rows == agent.final_context["cost_dataframe"]


# What is called, with which arguments besides, and whether it goes on with what it left.
CALLS = {
    "deep_research": (cmbagent.deep_research, {"n_plan_reviews": 1}, True),
    "planning_and_control": (cmbagent.planning_and_control, {}, True),
    "control": (cmbagent.control, {"plan": STEPS, "clear_work_dir": False}, True),
    "one_shot": (cmbagent.one_shot, {}, True),
    "one_shot of a researcher": (cmbagent.one_shot, {"agent": "researcher"}, True),
    "idea_generation": (cmbagent.idea_generation, {}, True),
    "idea_to_execution": (cmbagent.idea_to_execution, {}, True),
    "human_in_the_loop": (cmbagent.human_in_the_loop, {"approval_manager": AutoApprovalManager()}, False),
    "hitl_interactive_workflow": (
        cmbagent.workflows.hitl_interactive_workflow, {"approval_manager": AutoApprovalManager()}, False,
    ),
    "CMBAgent": (with_class, {}, False),
    "unesco": (cmbagent.get_keywords, {"n_keywords": 2}, False),
    "aaai": (cmbagent.get_keywords_from_aaai, {}, False),
    "aas": (cmbagent.get_aas_keywords, {}, False),
    "summarize_document": (with_documents(cmbagent.summarize_document), {}, False),
    "summarize_documents": (with_documents(cmbagent.summarize_documents), {}, False),
}  # fmt: skip


class World:
    """Models that bill each answer differently; `fates` are what happens at the first calls, in order."""

    def __init__(self, fates):
        self.fates, self.bill = iter(fates), []
        self.server = ModelServer({agent: self.answering(answer) for agent, answer in ANSWERS.items()})

    def answering(self, answer):
        def reply(call):
            fate = next(self.fates, "well")
            if fate == "busy":
                return Fault.status(503, headers={"Retry-After": "0"})
            if fate == "refused":
                return Fault.status(401, "no")
            # As many as the longest prompt has, which would else pass for one that was cut.
            tokens = (100 * len(self.bill) + 20_007, 10 * len(self.bill) + 3)
            self.bill.append((call.model, *tokens))
            said = "What do you mean?" if fate == "odd" else answer
            if fate == "wrong" and call.agent == "engineer":
                said = code("raise ValueError('wrong')")
            text = said if isinstance(said, str) else json.dumps(said)
            return Reply(text, prompt_tokens=tokens[0], completion_tokens=tokens[1])

        return reply

    @property
    def sums(self):
        prompt, completion = (sum(line[n] for line in self.bill) for n in (1, 2))
        dollars = sum((p * PRICES[m][0] + c * PRICES[m][1]) / 1e6 for m, p, c in self.bill)
        return dict(zip(NUMBERS, (dollars, prompt, completion, prompt + completion), strict=True))


def strictly(path):
    def refuse(token):
        raise AssertionError(f"{path} holds {token}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def check(work_dir, world):
    for file in Path(work_dir).rglob("*.json"):
        strictly(file)
    reports = [strictly(file) for file in Path(work_dir).rglob("cost_report*.json")]
    for rows in reports:
        *agents, total = rows
        for name in NUMBERS:
            assert total[name] == pytest.approx(sum(row[name] for row in agents)), rows
    for name, billed in world.sums.items():
        assert sum(rows[-1][name] for rows in reports) == pytest.approx(billed), name
    usages = [info.usage for info in Store().runs(work_dir=work_dir)]
    assert sum(usage["cost"] or 0 for usage in usages) == pytest.approx(world.sums["Cost ($)"])


@pytest.mark.parametrize("name", CALLS)
@settings(
    max_examples=1, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(fates=st.lists(st.sampled_from(["well", "busy", "odd", "wrong", "refused"]), max_size=7))
@example(fates=["odd", "odd", "refused"])
@example(fates=["well", "odd", "well", "busy", "refused", "refused"])
@example(fates=["well", "well", "well", "wrong", "wrong", "wrong", "wrong", "wrong"])
def test_reports_add_up_to_the_bill(tmp_path_factory, monkeypatch, name, fates):
    monkeypatch.setenv("CMBAGENT_QUIET", "1")
    function, arguments, goes_on = CALLS[name]
    work_dir = tmp_path_factory.mktemp("run") / "work"
    world, heard = World(fates), []
    settings = {
        "work_dir": work_dir, "api_keys": {"OPENAI": "k"},
        "callbacks": WorkflowCallbacks(on_cost_update=heard.append), **arguments,
    }  # fmt: skip
    with world.server, world.server.environment():
        for again in range(len(fates) + 1):
            try:
                function("t", **settings, **({"resume": True} if again and goes_on else {}))
                break
            except (CmbagentError, RuntimeError):
                pass
    check(work_dir, world)
    # A run that never comes to its end tells its rest to files alone.
    if goes_on or not again:
        assert sum(told["total_cost"] for told in heard) == pytest.approx(world.sums["Cost ($)"])
        assert sum(told["total_tokens"] for told in heard) == world.sums["Total Tokens"]
