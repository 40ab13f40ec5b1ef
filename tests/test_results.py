import copy
import json
import pickle

import pytest

from cmbagent.workflows.results import FinalContext, Result, agents


def test_items_are_attributes():
    result = Result(chat_history=[1], items=2)
    assert result.chat_history == result["chat_history"] == [1]
    assert getattr(result, "nothing", None) is None
    with pytest.raises(AttributeError, match="no result named 'nothing'; there are chat_history, items"):
        _ = result.nothing
    assert callable(result.items)


def test_final_context_in_all_its_readings():
    context = FinalContext({"displayed_images": ["/a"], "work_dir": "/w"})
    assert isinstance(context, dict)
    assert context["work_dir"] == context.get("work_dir") == context.data["work_dir"] == context.work_dir
    assert type(context.to_dict()) is dict
    assert json.loads(json.dumps(context)) == context.to_dict()
    assert copy.deepcopy(context) == pickle.loads(pickle.dumps(context)) == context


def test_agents():
    made = agents({"engineer": "gpt", "researcher_response_formatter": None})
    engineer = made["engineer"]
    assert (engineer.name, engineer.llm_config["model"]) == ("engineer", "gpt")
    assert engineer.agent is engineer and engineer.cost_dict["Cost"] == []
    assert engineer.info["description"]
    assert made["researcher_response_formatter"].llm_config is None
