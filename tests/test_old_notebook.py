"""A notebook of the API of earlier versions runs cell by cell in a real kernel, as it stands."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from cmbagent.testing import ModelServer, code, notes, plan, review

NOTEBOOK = Path(__file__).parent / "notebooks" / "old_api.ipynb"
PLOT = """
from pathlib import Path
Path("data").mkdir(exist_ok=True)
Path("data/sine.png").write_bytes(b"\\x89PNG")
print("mean: 0.0")
"""
SCRIPT = {
    "planner": plan(("engineer", "plot"), ("researcher", "describe")),
    "plan_reviewer": review("Name the units."),
    "engineer": code(PLOT, filename="sine.py"),
    "researcher": notes("# Sine\n\nIts mean is 0.0."),
    "aaai_keywords_finder": {"keywords": ["ML: Bayesian Learning"]},
}


def shown(cell):
    """What a cell prints and comes to."""
    texts = [each.get("text", "") for each in cell.outputs if each.output_type == "stream"]
    results = [each.data["text/plain"] for each in cell.outputs if each.output_type == "execute_result"]
    return "".join(texts), results[0] if results else None


def test_cell_by_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("CMBAGENT_QUIET", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    # Nobody answers in a notebook that is run like this.
    monkeypatch.setenv("CMBAGENT_HITL", "approve")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with ModelServer(SCRIPT) as server, server.environment():
        client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
    cells = [shown(cell) for cell in notebook.cells if cell.cell_type == "code"]
    image = str(tmp_path / "session" / "data" / "sine.png")
    assert cells[3][0].split() == [image, "engineer_nest"]
    assert cells[4][0].strip() == "_Group_Tool_Executor tool"
    assert "| Agent" in cells[5][0] and "Total" in cells[5][1]
    assert cells[6][0].strip().endswith(" s")
    assert cells[7][0].strip() == f"{tmp_path}/deep/control/data/"
    assert cells[8][0].strip().endswith("Its mean is 0.0.")
    assert cells[9][1] == "['ML: Bayesian Learning']"
    assert (cells[10][1], cells[11][1]) == ("'engineer'", "True")
    server.assert_calls(
        ["engineer"] * 2
        + ["planner", "plan_reviewer", "planner", "engineer", "researcher"]
        + ["aaai_keywords_finder", "engineer"]
    )
