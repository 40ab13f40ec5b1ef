"""Scripted models for whole runs, and a plan."""

from cmbagent.testing import ModelServer, code, notes, plan, review

STEPS = [
    {"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["x"]},
    {"sub_task": "b", "sub_task_agent": "researcher", "bullet_points": ["y"]},
]


class KeyManager:
    """A key holder with item access only."""

    OPENAI = "sk-open"
    GEMINI = ANTHROPIC = PERPLEXITY = None

    def __getitem__(self, name):
        return getattr(self, name)


def models(steps, **answers):
    """A server with a planner of these steps, one reviewer, and the given agents."""
    return ModelServer({"planner": plan(*steps), "plan_reviewer": review("Name the units."), **answers})


# The plot is a single black pixel.
PLOT = """
import base64
from pathlib import Path
Path("data").mkdir(exist_ok=True)
Path("data/plot_1.png").write_bytes(base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="))
print("power 4.25 K")
"""


def two_steps(**changes):
    answers = {
        "engineer": code(PLOT, filename="plot.py"),
        "researcher": notes("# Report\n\n```python\nx\n```\n\n4.25 K"),
    }
    return models([("engineer", "compute"), ("researcher", "write")], **{**answers, **changes})


def run(server, function, *args, **kwargs):
    with server, server.environment():
        return function(*args, api_keys=kwargs.pop("api_keys", {"OPENAI": "sk-test"}), **kwargs)
