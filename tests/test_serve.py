"""`cmbagent serve` as a process: the specification's requests, many clients, kills and restarts."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cmbagent.testing import ModelServer, code
from procs import wait_for
from scripted import two_steps

API = "/api/phases"
ENDED = ("stopped", "cancelled", "failed", "completed")

# Phase types of a user's, for a server that imports them.
PHASES = """
import asyncio
from pathlib import Path
from cmbagent.phases import Phase, PhaseRegistry, PhaseResult, PhaseStatus

@PhaseRegistry.register("step")
class Step(Phase):
    phase_type = "step"
    display_name = "Step"

    async def execute(self, context):
        Path(context.work_dir).mkdir(parents=True, exist_ok=True)
        with Path(context.work_dir + ".log").open("a") as file:
            file.write(context.phase_id + "\\n")
        await asyncio.sleep(0.05)
        gate = Path(context.work_dir).parent / "closed"
        while context.phase_id == "phase_1_step" and gate.exists():
            await asyncio.sleep(0.02)
        return PhaseResult(PhaseStatus.COMPLETED, context)
"""

# `cmbagent`, with a setting that has no option.
PROGRAM = """
import functools
import phases_of_mine
from cmbagent.backend.settings import Settings
from cmbagent.cli import main
Settings.from_environment = functools.partial(Settings.from_environment, take_up_seconds={})
main()
"""


class Server:
    """A process of `cmbagent serve`, and requests to it."""

    def __init__(self, directory, models=None, *options, take_up_seconds=60.0):
        self.directory = Path(directory)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.directory / "phases_of_mine.py").write_text(PHASES)
        main = PROGRAM.format(take_up_seconds)
        environment = {
            **os.environ,
            "HOME": str(self.directory),
            "CMBAGENT_STORE": str(self.directory / "store" / "store.db"),
            "PYTHONPATH": str(self.directory),
        }
        if models is not None:
            environment |= {"OPENAI_BASE_URL": f"{models.url}/v1", "OPENAI_API_KEY": "sk-test"}
        self.log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", main, "serve", "--port", str(self.port), *options],
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        wait_for(self._up)

    def _up(self):
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with contextlib.suppress(OSError):
            return self.get("/api/health")["status"] == "ok"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self.log.close()

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait(30)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=None):
        """Status and body of an answer."""
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def get(self, path):
        status, body = self.ask("GET", path)
        assert status == 200, body
        return body

    def post(self, path, body=None):
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer

    def run(self, run_id):
        return self.get(f"{API}/runs/{run_id}")

    def workflow(self, steps):
        phases = [{"type": "step"}] * steps
        return self.post(f"{API}/workflows", {"name": "w", "description": "", "phases": phases})["id"]


def curl(server, *arguments):
    """What the specification's command prints, but for the port."""
    arguments = [each.replace("http://localhost:8000", server.url) for each in arguments]
    answer = subprocess.run(["curl", "-s", *arguments], capture_output=True, timeout=30, check=True)
    return json.loads(answer.stdout)


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "command -v curl"], capture_output=True).returncode != 0, reason="no curl"
)
def test_the_requests_of_the_specification(tmp_path):
    models = two_steps()
    with models, Server(tmp_path, models) as server:
        listed = curl(server, "http://localhost:8000/api/phases/workflows")
        assert listed[0] == {
            "id": "deep_research",
            "name": "Deep Research",
            "description": "Planning followed by multi-step execution",
            "num_phases": 2,
            "is_system": True,
        }
        started = curl(
            server,
            "-X", "POST", "http://localhost:8000/api/phases/workflows/deep_research/run",
            "-H", "Content-Type: application/json",
            "-d", '{ "task": "Analyze CMB temperature fluctuations", "work_dir": "~/cmbagent_output" }',
        )  # fmt: skip
        run_id = started.pop("run_id")
        assert re.fullmatch(r"[0-9a-f-]{36}", run_id)
        assert started == {
            "workflow_id": "deep_research",
            "workflow_name": "Deep Research",
            "status": "pending",
            "message": "Workflow run started",
            "num_phases": 2,
        }
        place = f"http://localhost:8000/api/phases/runs/{run_id}"
        state = wait_for(lambda: (s := curl(server, place))["status"] in ENDED and s)
    assert state["status"] == "completed", state
    assert state["work_dir"] == str(tmp_path / "cmbagent_output" / run_id)
    assert (tmp_path / "cmbagent_output" / run_id / "planning" / "final_plan.json").is_file()


def phases_done(directory, run_id):
    return Path(directory, "cmbagent_output", f"{run_id}.log").read_text().split()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_was_ended_is_taken_up_by_the_next(tmp_path, number):
    root = tmp_path / "cmbagent_output"
    root.mkdir()
    (root / "closed").touch()
    with Server(tmp_path) as server:
        kind = server.workflow(3)
        ids = [server.post(f"{API}/workflows/{kind}/run", {"task": "t"})["run_id"] for _ in range(12)]
        wait_for(lambda: all(server.run(each)["current_phase"] == 1 for each in ids))
        server.end(number)
    (root / "closed").unlink()
    with Server(tmp_path) as server:
        assert kind in [each["id"] for each in server.get(f"{API}/workflows")]
        assert {each["run_id"] for each in server.get(f"{API}/runs")} == set(ids)
        wait_for(lambda: all(server.run(each)["status"] in ENDED for each in ids))
        assert {server.run(each)["status"] for each in ids} == {"completed"}
    for run_id in ids:
        assert phases_done(tmp_path, run_id) == [f"phase_{n}_step" for n in (0, 1, 1, 2)]


def test_a_question_outlives_the_server_that_asked_it(tmp_path):
    models = two_steps()
    with models:
        with Server(tmp_path, models) as server:
            body = {"task": "t"}
            run_id = server.post(f"{API}/workflows/deep_research_hitl/run", body)["run_id"]
            wait_for(lambda: server.run(run_id)["status"] == "waiting_approval")
            server.end(signal.SIGKILL)
        calls = len(models.calls)
        with Server(tmp_path, models, "--no-resume") as server:
            state = server.run(run_id)
            assert (state["status"], state["resumable"]) == ("interrupted", "yes")
            assert state["phase_results"][1]["status"] == "waiting_approval"
            (question,) = server.get(f"{API}/runs/{run_id}/approvals")
            assert question["status"] == "open"
            server.post(f"{API}/runs/{run_id}/approvals/{question['approval_id']}", {"resolution": "approve"})
            server.post(f"{API}/runs/{run_id}/resume")
            wait_for(lambda: server.run(run_id)["status"] in ENDED)
            assert server.run(run_id)["status"] == "completed"
    assert [call.agent for call in models.calls[calls:]] == ["engineer", "researcher"]


def test_two_servers_share_a_store(tmp_path):
    root = tmp_path / "cmbagent_output"
    root.mkdir()
    (root / "closed").touch()
    with Server(tmp_path) as one, Server(tmp_path) as other:
        kind = one.workflow(2)
        assert other.get(f"{API}/workflows/{kind}")["version"] == 1
        ids = [each.post(f"{API}/workflows/{kind}/run", {"task": "t"})["run_id"] for each in (one, other)]
        assert {each["run_id"] for each in one.get(f"{API}/runs")} == set(ids)
        wait_for(lambda: all(one.run(each)["current_phase"] == 1 for each in ids))
        # Each is told of the other's run, and may stop it.
        other.post(f"{API}/runs/{ids[0]}/stop")
        one.post(f"{API}/runs/{ids[1]}/stop")
        wait_for(lambda: {one.run(each)["status"] for each in ids} == {"cancelled"})


def test_a_server_that_lives_goes_on_with_the_runs_of_one_that_was_killed(tmp_path):
    root = tmp_path / "cmbagent_output"
    root.mkdir()
    (root / "closed").touch()
    with Server(tmp_path, take_up_seconds=0.3) as one, Server(tmp_path, take_up_seconds=0.3) as other:
        kind = one.workflow(3)
        ids = [
            each.post(f"{API}/workflows/{kind}/run", {"task": "t"})["run_id"]
            for each in (one, other)
            for _ in range(6)
        ]
        wait_for(lambda: all(other.run(each)["current_phase"] == 1 for each in ids))
        one.end(signal.SIGKILL)
        wait_for(lambda: {other.run(each)["status"] for each in ids} == {"running"})
        (root / "closed").unlink()
        wait_for(lambda: all(other.run(each)["status"] in ENDED for each in ids))
        assert {other.run(each)["status"] for each in ids} == {"completed"}
    done = [phases_done(tmp_path, run_id) for run_id in ids]
    assert done[:6] == [[f"phase_{n}_step" for n in (0, 1, 1, 2)]] * 6
    assert done[6:] == [[f"phase_{n}_step" for n in (0, 1, 2)]] * 6


def test_fifty_runs_and_twenty_clients_that_stop_and_delete_at_random(tmp_path):
    models = ModelServer({"engineer": code("print(1)", filename="a.py")})
    chance = random.Random(7)
    faults, deleted = [], set()
    with models, Server(tmp_path, models) as server:
        kind = server.workflow(4)
        ids = [server.post(f"{API}/workflows/{kind}/run", {"task": "t"})["run_id"] for _ in range(50)]

        def client(requests):
            for verb, run_id in requests:
                method, path = {
                    "show": ("GET", f"/runs/{run_id}"),
                    "phases": ("GET", f"/runs/{run_id}/phases"),
                    "list": ("GET", "/runs"),
                    "stop": ("POST", f"/runs/{run_id}/stop"),
                    "pause": ("POST", f"/runs/{run_id}/pause"),
                    "resume": ("POST", f"/runs/{run_id}/resume"),
                    "delete": ("DELETE", f"/runs/{run_id}"),
                    "cost": ("GET", f"/runs/{run_id}/cost"),
                }[verb]
                status, body = server.ask(method, API + path)
                if verb == "delete" and status == 200:
                    deleted.add(run_id)
                if status not in (200, 400, 404, 409):
                    faults.append((verb, status, body))

        verbs = ["show"] * 5 + ["phases", "list", "stop", "pause", "resume", "resume", "delete", "cost"]
        plans = [[(chance.choice(verbs), chance.choice(ids)) for _ in range(15)] for _ in range(20)]
        threads = [threading.Thread(target=client, args=(requests,)) for requests in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert faults == [], (tmp_path / "log").read_text()[-3000:]
        left = [run_id for run_id in ids if run_id not in deleted]
        for run_id in left:
            # What was paused last goes on.
            server.ask("POST", f"{API}/runs/{run_id}/resume")
        wait_for(lambda: all(server.run(each)["status"] in ENDED for each in left))
        assert {each["run_id"] for each in server.get(f"{API}/runs")} == set(left)


def listen(server, run_id, after):
    connection = socket.create_connection(("127.0.0.1", server.port))
    path = f"{API}/runs/{run_id}/events"
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", f"Last-Event-ID: {after}", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def test_listeners_that_vanish_or_sleep_harm_nobody(tmp_path):
    root = tmp_path / "cmbagent_output"
    root.mkdir()
    (root / "closed").touch()
    with Server(tmp_path) as server:
        kind = server.workflow(3)
        run_id = server.post(f"{API}/workflows/{kind}/run", {"task": "t"})["run_id"]
        wait_for(lambda: server.run(run_id)["current_phase"] == 1)
        connections = [listen(server, run_id, 0) for _ in range(40)]

        def listeners():
            lines = urllib.request.urlopen(f"{server.url}/metrics", timeout=30).read().decode().splitlines()
            return int(
                next(line for line in lines if line.startswith("cmbagent_event_listeners ")).split()[1]
            )

        wait_for(lambda: listeners() == 40)
        for connection in connections[:30]:
            connection.close()
        wait_for(lambda: listeners() == 10)
        (root / "closed").unlink()
        wait_for(lambda: server.run(run_id)["status"] == "completed")
        wait_for(lambda: listeners() == 0)
        # Those who slept find all of it.
        for connection in connections[30:]:
            connection.settimeout(10)
            text = b""
            while b"event: run_finished" not in text:
                text += connection.recv(65536)
            assert text.count(b"event: phase_finished") == 3
            connection.close()


def test_serve_says_what_is_wrong(tmp_path):
    environment = {**os.environ, "CMBAGENT_TOKEN": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "cmbagent", "serve", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0 and "CMBAGENT_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr


def heard(server, run_id, after, most):
    """The numbers and kinds of at most so many events after a number; then the connection is dropped."""
    connection, text = listen(server, run_id, after), b""
    connection.settimeout(20)
    while text.count(b"\nevent: ") < most and b"event: run_finished" not in text:
        piece = connection.recv(256)
        if not piece:
            break
        text += piece
    connection.close()
    found = re.findall(rb"id: (\d+)\nevent: (\w+)\ndata: ", text)
    return [(int(seq), kind.decode()) for seq, kind in found][:most]


def test_a_listener_that_comes_again_misses_nothing_and_hears_nothing_twice(tmp_path):
    with Server(tmp_path) as server:
        run_id = server.post(f"{API}/workflows/{server.workflow(12)}/run", {"task": "t"})["run_id"]
        events = []
        while not events or events[-1][1] != "run_finished":
            events += heard(server, run_id, events[-1][0] if events else 0, 3)
        whole = heard(server, run_id, 0, 1000)
    assert events == whole
    assert [kind for _, kind in whole].count("phase_finished") == 12
