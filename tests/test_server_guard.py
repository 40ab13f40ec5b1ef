"""What the server refuses: strangers, other hosts, what is too large, paths that lead out, keys."""

import json
import threading

import pytest

from cmbagent.backend import Settings, create_app
from cmbagent.errors import ConfigurationError
from cmbagent.phases import PhaseResult, PhaseStatus
from procs import forever, wait_for
from rest import API, phase_types, server, start, status, until, workflow

TOKEN = "a-token-of-more-than-16"
KEY = "sk-never-to-be-seen-0123456789"


@pytest.fixture
def client(tmp_path):
    with server(tmp_path) as client:
        yield client


async def nothing(context):
    return PhaseResult(PhaseStatus.COMPLETED, context)


def test_beyond_this_machine_there_is_no_server_without_a_token(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(ConfigurationError, match="CMBAGENT_TOKEN"):
            create_app(tmp_path / "s.db", Settings(host=host))
        create_app(tmp_path / "s.db", Settings(host=host, token=TOKEN))
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        create_app(tmp_path / "s.db", Settings(host=host))
    with pytest.raises(ConfigurationError, match="16"):
        create_app(tmp_path / "s.db", Settings(token="short"))
    assert TOKEN not in repr(Settings(token=TOKEN))


def test_the_token_comes_from_the_environment():
    assert Settings.from_environment({"CMBAGENT_TOKEN": f" {TOKEN}\n"}).token == TOKEN
    assert Settings.from_environment({"CMBAGENT_TOKEN": ""}).token is None


def test_a_server_needs_a_store(monkeypatch):
    monkeypatch.setenv("CMBAGENT_STORE", ":memory:")
    with pytest.raises(ConfigurationError, match="store"):
        create_app()


@pytest.mark.parametrize("path", [f"{API}/types", "/metrics", "/openapi.json", "/docs", "/nowhere"])
def test_who_has_no_token_gets_nothing(tmp_path, path):
    with server(tmp_path, token=TOKEN) as client:
        for given in (
            {},
            {"Authorization": "Bearer no"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer é"},
        ):
            headers = {name: value.encode() for name, value in given.items()}
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code != 401
        assert client.get("/api/health").json()["status"] == "ok"


def test_a_websocket_brings_its_token_as_a_protocol(tmp_path):
    from starlette.websockets import WebSocketDisconnect

    with phase_types(nothing=nothing), server(tmp_path, token=TOKEN) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        run_id = start(client, workflow(client, "nothing"))
        until(client, run_id)
        del client.headers["Authorization"]
        place = f"{API}/runs/{run_id}/events"
        for protocols in ([], ["cmbagent.token.wrong"]):
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(place, subprotocols=protocols):
                pass
        with client.websocket_connect(place, subprotocols=[f"cmbagent.token.{TOKEN}"]) as socket:
            assert json.loads(socket.receive_text())["kind"] == "run_started"


def test_other_hosts_and_origins_are_refused(client):
    for host in ("evil.example", "testserver.evil.example", "", "127.0.0.1.evil.example"):
        assert client.get(f"{API}/types", headers={"Host": host}).status_code == 400
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "TestServer"):
        assert client.get(f"{API}/types", headers={"Host": host}).status_code == 200
    for origin in ("http://evil.example", "null", "https://testserver:81"):
        assert client.get(f"{API}/types", headers={"Origin": origin}).status_code == 403
    answer = client.get(f"{API}/types", headers={"Origin": "http://testserver"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_what_is_too_large_is_refused(tmp_path):
    with server(tmp_path, max_body=2000, max_task=100, max_path=500) as client:
        place = f"{API}/workflows/one_shot/run"
        assert client.post(place, json={"task": "x" * 3000}).status_code == 413
        chunks = iter([b'{"task": "', b"x" * 3000, b'"}'])
        assert client.post(place, content=chunks).status_code == 413
        answer = client.post(place, json={"task": "x" * 101})
        assert answer.status_code == 422 and "100" in answer.json()["detail"]
        assert client.get(f"{API}/types/{'x' * 600}").status_code == 414
        assert client.get(f"{API}/types", params={"x": "x" * 600}).status_code == 414
        assert client.get(f"{API}/runs").json() == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"task": NaN}', b'{"task": 1}', b"\xff\xfe",
        b'{"task": "\\ud800"}',
        b'{"task": "t", "config_overrides": {"one_shot": {"params": {"a": ' + b"[" * 60 + b"]" * 60 + b"}}}}",
        b'{"task": "t", "config_overrides": {"one_shot": {"params": {"a": Infinity}}}}',
        b'{"task": "t", "config_overrides": {"one_shot": {"max_rounds": 1' + b"0" * 40 + b"}}}",
        b'{"task": "t", "odd": 1}', b'{"task": ""}',
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused(client, body):
    place = f"{API}/workflows/one_shot/run"
    answer = client.post(place, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert client.get(f"{API}/runs").json() == []


def test_a_body_of_another_type_is_refused(client):
    # A form of another page's could be sent without asking first.
    place = f"{API}/workflows/one_shot/run"
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"Content-Type": kind} if kind else {}
        assert client.post(place, content=b'{"task": "t"}', headers=headers).status_code == 422


@pytest.mark.parametrize("work_dir", ["/etc", "../elsewhere", "~/..", "a/../../b", "/", "link", "a\0b"])
def test_runs_stay_below_the_root(client, tmp_path, work_dir):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with phase_types(nothing=nothing):
        kind = workflow(client, "nothing")
        answer = client.post(f"{API}/workflows/{kind}/run", json={"task": "t", "work_dir": work_dir})
        assert answer.status_code == 400 and "work_dir" in answer.json()["detail"]


def test_two_runs_in_the_same_place_have_directories_of_their_own(client):
    with phase_types(nothing=nothing):
        kind = workflow(client, "nothing")
        ids = [start(client, kind, work_dir="same") for _ in range(2)]
        places = {status(client, run_id)["work_dir"] for run_id in ids}
        for run_id in ids:
            until(client, run_id)
    assert len(places) == 2


async def write(context):
    from pathlib import Path

    place = Path(context.work_dir, "data")
    place.mkdir(parents=True)
    (place / "plot 1.png").write_bytes(b"\x89PNG0123456789")
    (place / "page.html").write_text("<script>alert(1)</script>")
    (place / "out").symlink_to("/etc/hostname")
    (place / "up").symlink_to("../../..")
    return PhaseResult(PhaseStatus.COMPLETED, context)


def test_files_are_listed_and_handed_out(client):
    with phase_types(write=write):
        run_id = start(client, workflow(client, "write"))
        until(client, run_id)
    place = f"{API}/runs/{run_id}/files"
    listed = client.get(place).json()["files"]
    assert [(e["path"], e["size"], e["media_type"]) for e in listed] == [
        ("data/page.html", 25, "text/html"),
        ("data/plot 1.png", 14, "image/png"),
    ]
    answer = client.get(f"{place}/data/plot 1.png")
    assert answer.content == b"\x89PNG0123456789" and answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"].startswith("inline")
    part = client.get(f"{place}/data/plot 1.png", headers={"Range": "bytes=4-6"})
    assert (part.status_code, part.content) == (206, b"012")
    page = client.get(f"{place}/data/page.html")
    assert page.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["", "data", "nope", "../../../etc/passwd", "%2e%2e/%2e%2e/store/store.db", "..%2f..%2fstore%2fstore.db",
     "/etc/passwd", "data/out", "data/up/store/store.db", "data%00", "data/..%5c..%5cstore"],
)  # fmt: skip
def test_no_file_outside_is_handed_out(client, path):
    with phase_types(write=write):
        run_id = start(client, workflow(client, "write"))
        until(client, run_id)
    answer = client.get(f"{API}/runs/{run_id}/files/{path}")
    assert answer.status_code == 404, answer.text


def test_files_of_runs_outside_the_root_stay_there(tmp_path):
    with phase_types(write=write), server(tmp_path) as client:
        run_id = start(client, workflow(client, "write"))
        until(client, run_id)
    with server(tmp_path, root=tmp_path / "other") as client:
        assert status(client, run_id)["status"] == "completed"
        assert client.get(f"{API}/runs/{run_id}/files").status_code == 403
        assert client.delete(f"{API}/runs/{run_id}", params={"files": True}).status_code == 403


# Keys


def test_keys_are_not_kept_in_definitions(client):
    for config in (
        {"params": {"agent_llm_configs": {"engineer": {"model": "m", "api_key": KEY}}}},
        {"params": {"auth_token": KEY}},
        {"params": {"list": [{"password": KEY}]}},
    ):
        phases = [{"type": "control", "config": config}]
        body = {"name": "n", "description": "d", "phases": phases}
        answer = client.post(f"{API}/workflows", json=body)
        assert answer.status_code == 400 and "keys are not kept" in answer.json()["detail"]
        assert KEY not in answer.text
        found = client.post(f"{API}/workflows/validate", json={"phases": phases}).json()
        assert found["valid"] is False and KEY not in json.dumps(found)
        answer = client.post(
            f"{API}/workflows/deep_research/run", json={"task": "t", "config_overrides": {"control": config}}
        )
        assert answer.status_code == 400 and KEY not in answer.text


def test_a_key_of_a_run_reaches_its_phases_and_nothing_else(client, tmp_path):
    seen = []

    async def look(context):
        seen.append(context.api_keys["OPENAI"])
        context.output_data["told"] = f"the key is {context.api_keys['OPENAI']}"
        return PhaseResult(PhaseStatus.COMPLETED, context)

    with phase_types(look=look):
        run_id = start(client, workflow(client, "look"), {"X-OpenAI-Api-Key": KEY})
        until(client, run_id)
    assert seen == [KEY]
    for place in ("", "/phases", "/events", "/chat", "/cost"):
        assert KEY not in client.get(f"{API}/runs/{run_id}{place}").text


def test_what_was_sent_is_not_sent_back_in_errors(client):
    answer = client.post(f"{API}/workflows/one_shot/run", json={"task": 1, "api_key": KEY})
    assert answer.status_code == 422 and KEY not in answer.text
    assert {"loc", "msg", "type"} == set(answer.json()["detail"][0])


def test_a_failure_of_the_server_shows_nothing_of_it(tmp_path, monkeypatch):
    from fastapi.testclient import TestClient

    from cmbagent.backend.hub import Hub

    app = create_app(tmp_path / "store" / "s.db", Settings(root=tmp_path, hosts=("testserver",)))
    monkeypatch.setattr(Hub, "run", lambda *_: 1 / 0)
    answer = TestClient(app, raise_server_exceptions=False).get(f"{API}/runs/x")
    assert (answer.status_code, answer.json()) == (
        500,
        {"detail": "the server failed at this; its log says why"},
    )


def test_so_many_runs_and_listeners_and_no_more(tmp_path):
    import asyncio

    gate = threading.Event()

    async def held(context):
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return PhaseResult(PhaseStatus.COMPLETED, context)

    with phase_types(held=held), server(tmp_path, max_runs=2, max_listeners=0) as client:
        kind = workflow(client, "held")
        ids = [start(client, kind) for _ in range(2)]
        answer = client.post(f"{API}/workflows/{kind}/run", json={"task": "t"})
        assert answer.status_code == 503 and "2 runs" in answer.json()["detail"]
        assert client.get(f"{API}/runs/{ids[0]}/events").status_code == 503
        gate.set()
        for run_id in ids:
            until(client, run_id)
        until(client, start(client, kind))


def test_a_phase_that_never_awaits_holds_up_nobody_else(client):
    gate = threading.Event()
    seen = []

    async def blocking(context):
        gate.wait(60)
        return PhaseResult(PhaseStatus.COMPLETED, context)

    with phase_types(blocking=blocking, nothing=nothing, endless=forever(seen)):
        run_id = start(client, workflow(client, "blocking"))
        other, endless = (start(client, workflow(client, kind)) for kind in ("nothing", "endless"))
        assert until(client, other)["status"] == "completed"
        wait_for(lambda: seen)
        client.post(f"{API}/runs/{endless}/stop")
        assert until(client, endless)["status"] == "cancelled"
        assert status(client, run_id)["status"] == "running"
        gate.set()
        assert until(client, run_id)["status"] == "completed"


def test_a_machine_without_another_thread_says_so(client, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with phase_types(nothing=nothing):
        kind = workflow(client, "nothing")
        with monkeypatch.context() as patched:
            patched.setattr("cmbagent.backend.live.threading.Thread.start", refuse)
            answer = client.post(f"{API}/workflows/{kind}/run", json={"task": "t"})
        assert answer.status_code == 503 and "new thread" in answer.json()["detail"]
        until(client, start(client, kind))
