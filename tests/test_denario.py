"""The published Denario package, as it is, runs on this one against scripted models.

It needs Python 3.12 and `pip install --no-deps denario`, with `pydantic` and `python-dotenv`, which are on
its path; `.ci/run` sets that up. Denario's other dependencies serve its paper writer and its "fast" modes,
which call models by themselves: stand-ins let it be imported without them.
"""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmbagent.testing import ModelServer, code, ideas, notes, plan, review

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("denario", "pydantic", "dotenv")),
    reason="denario is not installed: pip install --no-deps denario, and pydantic and python-dotenv",
)

STAND_INS = """
import importlib.abc, importlib.machinery, importlib.util, sys
from unittest.mock import MagicMock

NAMES = {"PIL", "langgraph", "langchain_core", "langchain_openai", "langchain_anthropic",
         "langchain_google_genai", "fitz", "json5", "tqdm", "requests"}
NAMES = {name for name in NAMES if importlib.util.find_spec(name) is None}

class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module
    def exec_module(self, module):
        pass

sys.meta_path.append(StandIns())
"""

PLOT = """
from pathlib import Path
Path("data").mkdir(exist_ok=True)
Path("data/spectrum_1.png").write_bytes(b"\\x89PNG")
print("peak at l = 220")
"""


def script(call):
    """Each of Denario's tasks has a plan of its own; the prompts tell which is asked for."""
    if call.agent == "aas_keyword_finder":
        return {"keywords": ["Cosmology"]}
    if call.agent == "plan_reviewer":
        return review("Name the units.")
    if call.agent == "planner":
        if "Ask idea_maker" in call.prompt:
            steps = [
                ("idea_maker", "make ideas"),
                ("idea_hater", "criticise"),
                ("idea_maker", "report the best"),
            ]
        elif "The only agent involved in this workflow is the researcher" in call.prompt:
            steps = [("researcher", "reason"), ("researcher", "write the methodology")]
        else:
            steps = [("engineer", "compute"), ("researcher", "write the Results section")]
        return plan(*steps)
    if call.agent == "idea_hater":
        words = dict.fromkeys(("relevance", "feasibility", "weaknesses", "improvements"), "fine")
        return {"critiques": [{"title": "One", **words, "discard": False}]}
    if call.agent == "idea_maker":
        if "# Now: step 3" in call.prompt:
            return ideas(("Peaks of the sky", "Where they are."))
        return ideas(("One", "first"), ("Two", "second"))
    if call.agent == "engineer":
        return code(PLOT, filename="spectrum.py")
    return notes("# Text\\n\\n```python\\nx = 1\\n```\\n\\nThe peak is at l = 220.")


def perform(program, work_dir, **environment):
    """Run a program that uses Denario, away from this process; gives what it printed last, as JSON."""
    with ModelServer(lambda call: script(call)) as server:
        keys = {"OPENAI_API_KEY": "sk-test", "GOOGLE_API_KEY": "", "ANTHROPIC_API_KEY": ""}
        done = subprocess.run(
            [sys.executable, "-c", STAND_INS + program],
            cwd=work_dir,
            env={**os.environ, **server.variables, **keys, "CMBAGENT_QUIET": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), server


WHOLE = """
import json, warnings
from denario import Denario
warnings.simplefilter("ignore")
d = Denario(project_dir="project")
d.set_data_description("Maps of the sky.")
d.get_idea(mode="cmbagent")
d.get_method(mode="cmbagent")
d.get_results()
r = d.research
print()
print(json.dumps([r.idea, r.methodology, r.results, r.plot_paths]))
"""


def test_idea_method_and_results(tmp_path):
    (idea, method, results, plots), server = perform(WHOLE, tmp_path)
    assert "Project Idea:" in idea and "Peaks of the sky" in idea and "**Ideas**" not in idea
    for text in (method, results):
        assert text.startswith("# Text") and text.endswith("The peak is at l = 220.")
        assert "```python" in text and "<!--" not in text
    project = tmp_path / "project"
    assert [Path(plot).name for plot in plots] == ["spectrum_1.png"]
    # It moves the plots away.
    assert (project / "input_files" / "plots" / "spectrum_1.png").read_bytes() == b"\x89PNG"
    assert (project / "input_files" / "results.md").read_text() == results
    assert (project / "experiment_generation_output" / "control" / "codebase" / "spectrum.py").exists()
    planned = ["planner", "plan_reviewer", "planner"]
    idea, method = ["idea_maker", "idea_hater", "idea_maker"], ["researcher", "researcher"]
    server.assert_calls([*planned, *idea, *planned, *method, *planned, "engineer", "researcher"])


RESTART = """
import json, warnings
from denario import Denario
warnings.simplefilter("ignore")
d = Denario(project_dir="project")
d.set_data_description("Maps."); d.set_idea("Peaks."); d.set_method("Count.")
d.get_results()
d.get_results(restart_at_step=2)
print()
print(json.dumps([d.research.results, d.research.plot_paths]))
"""


def test_results_go_on_at_a_step(tmp_path):
    (results, _), server = perform(RESTART, tmp_path)
    assert "l = 220" in results
    server.assert_calls(["planner", "plan_reviewer", "planner", "engineer", "researcher", "researcher"])


TASK = """
import json
from denario import Denario
d = Denario(project_dir="project")
d.set_data_description("Maps of the sky, no links.")
d.enhance_data_description("gpt-4o", "gpt-4o")
d.get_keywords("Peaks of the sky.", n_keywords=2, kw_type="aas")
d.show_keywords()
print()
print(json.dumps([d.research.data_description, d.keys["OPENAI"], d.research.keywords]))
"""


def test_its_project_survives_the_preparation_of_a_task(tmp_path):
    (text, key, keywords), server = perform(TASK, tmp_path)
    assert (text, key) == ("Maps of the sky, no links.", "sk-test")
    assert keywords == {"Cosmology": "http://astrothesaurus.org/uat/343"}
    server.assert_calls(["aas_keyword_finder"])
    assert (tmp_path / "project" / "input_files" / "plots").is_dir()


def test_this_version_is_one_that_it_asks_for():
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("denario")]
    (ours,) = [each for each in wanted if each.name == "cmbagent"]
    assert ours.specifier.contains(importlib.metadata.version("cmbagent"), prereleases=True)
