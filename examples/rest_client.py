"""A client of `cmbagent serve`: start a run, follow its events, agree to its plan, fetch what it made.

The server's address is in CMBAGENT_SERVER (http://localhost:8000 without it). With --offline one is started.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any

from offline import models, rest_server

from cmbagent.testing import code, notes, plan, review

SCRIPT = {
    "planner": plan(("engineer", "Compute the golden ratio."), ("researcher", "Report it.")),
    "plan_reviewer": review("State how many digits are wanted."),
    "engineer": code("print(f'golden ratio = {(1 + 5 ** 0.5) / 2:.12f}')", filename="golden.py"),
    "researcher": notes("# The golden ratio\n\nIt is 1.618033988750."),
}


class Client:
    """What this program needs of the API."""

    def __init__(self, server: str, token: str | None) -> None:
        self.api = f"{server}/api/phases"
        self.headers = {"Content-Type": "application/json"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.api + path, data, self.headers)) as answer:
            return json.load(answer)

    def events(self, run: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Server-Sent Events, until the run has ended."""
        request = urllib.request.Request(f"{self.api}/runs/{run}/events", headers=self.headers)
        with urllib.request.urlopen(request) as stream:
            kind = ""
            for line in stream:
                name, _, value = line.decode().strip().partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)


with models(SCRIPT), rest_server() as server:
    client = Client(server, os.environ.get("CMBAGENT_TOKEN"))
    task = {"task": "Compute the golden ratio and report it.", "work_dir": "golden"}
    run = client.ask("/workflows/deep_research_hitl/run", task)["run_id"]
    for kind, data in client.events(run):
        if kind == "approval_requested":
            (asked,) = client.ask(f"/runs/{run}/approvals")
            client.ask(f"/runs/{run}/approvals/{asked['approval_id']}", {"resolution": "approve"})
            print("approved:", [step["sub_task"] for step in asked["context"]["plan"]])
        elif kind == "step_finished":
            print("step", data["number"], data["status"])

    print(client.ask(f"/runs/{run}")["status"])
    files = client.ask(f"/runs/{run}/files")["files"]
    print([file["path"] for file in files if file["path"].endswith(".md")])
