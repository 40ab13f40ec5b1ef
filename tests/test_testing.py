"""The model server: wire formats, the script, faults, the record."""

import http.client
import json
import os
import threading

import pytest

from cmbagent.testing import Fault, ModelServer, Reply, ScriptError, code, ideas, notes, plan, review, step

SYSTEM = "You are the planner agent.\nMake a plan."
TEXT = "A quantity with units: 3 µK. " * 20
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-pro:generateContent",
    "gemini-stream": "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse&key=very-secret",
}


def body_for(provider: str, system: str = SYSTEM, stream: bool = False) -> dict:
    user = {"role": "user", "content": "the task"}
    if provider == "openai":
        turns = [{"role": "system", "content": system}, user]
        options = {"stream_options": {"include_usage": True}} if stream else {}
        return {"model": "gpt-4.1", "messages": turns, "stream": stream, **options}
    if provider == "anthropic":
        return {
            "model": "claude-sonnet-4",
            "max_tokens": 9,
            "system": system,
            "messages": [user],
            "stream": stream,
        }
    return {
        "systemInstruction": {"parts": [{"text": system}]},
        "contents": [{"role": "user", "parts": [{"text": "the task"}]}],
    }


def post(server, path, body, headers=None):
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        data = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", path, data, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def ask(server, provider="openai", system=SYSTEM):
    return post(server, PATHS[provider], body_for(provider, system))


def events(text: str) -> list[dict]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def text_of(provider: str, answer: dict) -> str:
    if provider == "openai":
        return answer["choices"][0]["message"]["content"]
    if provider == "anthropic":
        return "".join(block["text"] for block in answer["content"] if block["type"] == "text")
    return "".join(part["text"] for part in answer["candidates"][0]["content"]["parts"])


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_whole_answer(provider):
    with ModelServer({"planner": TEXT}) as server:
        status, raw, _ = ask(server, provider)
    assert status == 200
    assert text_of(provider, json.loads(raw)) == TEXT
    call = server.calls[0]
    assert (call.agent, call.provider, call.prompt, call.system) == ("planner", provider, "the task", SYSTEM)
    assert call.model == body_for(provider).get("model", "gemini-2.5-pro")
    assert not call.stream


def test_openai_stream():
    with ModelServer(
        {"planner": Reply(TEXT, prompt_tokens=40, cached_tokens=8, reasoning_tokens=2)}
    ) as server:
        _, raw, headers = post(server, PATHS["openai"], body_for("openai", stream=True))
    found = events(raw)
    deltas = [each["choices"][0]["delta"].get("content", "") for each in found if each["choices"]]
    assert headers["Content-Type"] == "text/event-stream"
    assert "".join(deltas) == TEXT
    assert len([each for each in deltas if each]) > 3
    assert found[-1]["usage"]["prompt_tokens"] == 40
    assert found[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 8}
    assert found[-1]["usage"]["completion_tokens"] == len(TEXT) // 4 + 2
    assert raw.endswith("data: [DONE]\n\n")


def test_openai_stream_reports_usage_only_when_asked():
    body = body_for("openai", stream=True)
    del body["stream_options"]
    with ModelServer({"planner": TEXT}) as server:
        _, raw, _ = post(server, PATHS["openai"], body)
    assert not any("usage" in each for each in events(raw))


def test_anthropic_stream():
    with ModelServer({"planner": Reply(TEXT, prompt_tokens=40, cached_tokens=8, thinking="hm")}) as server:
        _, raw, _ = post(server, PATHS["anthropic"], body_for("anthropic", stream=True))
    found = events(raw)
    deltas = [each["delta"] for each in found if each["type"] == "content_block_delta"]
    assert "".join(each.get("text", "") for each in deltas) == TEXT
    assert "".join(each.get("thinking", "") for each in deltas) == "hm"
    assert found[0]["message"]["usage"]["input_tokens"] == 32
    assert found[-2]["delta"]["stop_reason"] == "end_turn"
    assert found[-1] == {"type": "message_stop"}


def test_anthropic_forced_tool_gets_the_answer_as_its_input():
    body = body_for("anthropic") | {"tool_choice": {"type": "tool", "name": "plan"}}
    with ModelServer({"planner": plan(("engineer", "compute"))}) as server:
        _, raw, _ = post(server, PATHS["anthropic"], body)
        _, streamed, _ = post(server, PATHS["anthropic"], body | {"stream": True})
    answer = json.loads(raw)
    assert answer["content"][0]["input"]["sub_tasks"][0]["sub_task"] == "compute"
    assert answer["stop_reason"] == "tool_use"
    pieces = [
        each["delta"]["partial_json"] for each in events(streamed) if each["type"] == "content_block_delta"
    ]
    assert json.loads("".join(pieces)) == answer["content"][0]["input"]


def test_gemini_stream_hides_the_key():
    with ModelServer({"planner": TEXT}) as server:
        _, raw, _ = post(server, PATHS["gemini-stream"], body_for("gemini"))
    found = events(raw)
    assert "".join(text_of("gemini", each) for each in found) == TEXT
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"
    assert server.calls[0].stream
    assert "very-secret" not in repr(server.calls[0])


@pytest.mark.parametrize(
    ("provider", "length", "refusal"),
    [
        ("openai", "length", "stop"),
        ("anthropic", "max_tokens", "refusal"),
        ("gemini", "MAX_TOKENS", "SAFETY"),
    ],
)
def test_length_and_refusal(provider, length, refusal):
    def finish(raw):
        answer = json.loads(raw)
        if provider == "anthropic":
            return answer["stop_reason"]
        first = answer["choices" if provider == "openai" else "candidates"][0]
        return first["finish_reason" if provider == "openai" else "finishReason"]

    with ModelServer({"planner": [Fault.length("cut"), Fault.refusal("no"), Fault.empty()]}) as server:
        assert finish(ask(server, provider)[1]) == length
        refused = ask(server, provider)[1]
        assert finish(refused) == refusal
        assert '"no"' in refused
        status, _, _ = ask(server, provider)
        assert status == 200


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_status_fault_speaks_the_providers_format(provider):
    fault = Fault.status(429, "slow down", headers={"Retry-After": "7"})
    with ModelServer({"planner": [fault, "fine"]}) as server:
        status, raw, headers = ask(server, provider)
        assert status == 429
        assert json.loads(raw)["error"]["message"] == "slow down"
        assert headers["Retry-After"] == "7"
        assert ask(server, provider)[0] == 200


def test_status_fault_with_a_body_of_its_own():
    with ModelServer({"planner": Fault.status(503, body="<html>busy</html>")}) as server:
        assert ask(server)[:2] == (503, "<html>busy</html>")


def test_drop_and_hang_close_without_an_answer():
    with ModelServer({"planner": [Fault.drop(), Fault.hang(0.01)]}) as server:
        for _ in range(2):
            with pytest.raises(http.client.RemoteDisconnected):
                ask(server)
    server.assert_calls(["planner", "planner"])


@pytest.mark.parametrize("fault", [Fault.truncate(TEXT), Fault.stall(TEXT, seconds=0.01)])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off(fault, stream):
    with ModelServer({"planner": fault}) as server, pytest.raises(http.client.IncompleteRead) as caught:
        post(server, PATHS["openai"], body_for("openai", stream=stream))
    assert caught.value.partial
    assert b"[DONE]" not in caught.value.partial


@pytest.mark.parametrize("stream", [False, True])
def test_trickle_arrives_whole(stream):
    with ModelServer({"planner": Fault.trickle(TEXT, seconds=0.0)}) as server:
        _, raw, _ = post(server, PATHS["openai"], body_for("openai", stream=stream))
    if stream:
        assert (
            "".join(each["choices"][0]["delta"].get("content", "") for each in events(raw) if each["choices"])
            == TEXT
        )
    else:
        assert text_of("openai", json.loads(raw)) == TEXT


def test_garbage_is_not_json():
    with ModelServer({"planner": Fault.garbage()}) as server:
        status, raw, _ = ask(server)
    assert status == 200
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(raw)


def test_error_in_stream():
    with ModelServer({"planner": Fault.error_in_stream("Overloaded")}) as server:
        _, raw, _ = post(server, PATHS["anthropic"], body_for("anthropic", stream=True))
    assert events(raw)[-1]["error"] == {"type": "overloaded_error", "message": "Overloaded"}


def test_a_single_answer_repeats_and_a_list_runs_out():
    with ModelServer({"planner": "again", "engineer": ["once"]}) as server:
        assert [ask(server)[0] for _ in range(3)] == [200, 200, 200]
        engineer = SYSTEM.replace("planner", "engineer")
        assert ask(server, system=engineer)[0] == 200
        status, raw, _ = ask(server, system=engineer)
    assert status == 400
    assert "'engineer': the 1 scripted answers are used up" in json.loads(raw)["error"]["message"]
    assert len(server.errors) == 1


def test_unknown_agents_fail_or_get_the_star():
    with ModelServer({"engineer": "x"}) as server:
        assert ask(server)[0] == 400
        assert "'planner'" in server.errors[0]
    with ModelServer({"*": "for everybody"}) as server:
        assert text_of("openai", json.loads(ask(server)[1])) == "for everybody"
        assert ask(server, system="Nothing of the kind.")[0] == 200
        assert server.agents() == ["planner", ""]


def test_callables_see_the_call_and_their_errors_are_told():
    def answer(call):
        return {"saw": call.prompt, "number": call.number}

    def broken(call):
        raise KeyError("chi2")

    with ModelServer({"planner": [answer, broken]}) as server:
        assert json.loads(text_of("openai", json.loads(ask(server)[1]))) == {"saw": "the task", "number": 1}
        status, raw, _ = ask(server)
    assert status == 400
    assert "KeyError: 'chi2'" in raw
    with ModelServer(lambda call: call.agent.upper()) as server:
        assert text_of("openai", json.loads(ask(server)[1])) == "PLANNER"


def test_keys_are_masked_and_their_presence_is_recorded():
    with ModelServer({"planner": "x"}) as server:
        post(
            server,
            PATHS["openai"],
            body_for("openai"),
            {"Authorization": "Bearer sk-secret", "X-Api-Key": "sk-secret"},
        )
    assert server.calls[0].headers["authorization"] == "***"
    assert server.calls[0].headers["x-api-key"] == "***"
    assert "sk-secret" not in repr(server.calls)


def test_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://mine")
    monkeypatch.delenv("GEMINI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "example.org")
    with ModelServer({}) as server, server.environment():
        assert os.environ["OPENAI_BASE_URL"] == server.url + "/v1"
        assert os.environ["GEMINI_BASE_URL"] == server.url
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"
    assert os.environ["OPENAI_BASE_URL"] == "http://mine"
    assert "GEMINI_BASE_URL" not in os.environ
    assert os.environ["NO_PROXY"] == "example.org"


def test_assert_calls_shows_both_lists():
    with ModelServer({"planner": "x"}) as server:
        ask(server)
    server.assert_calls(["planner"])
    with pytest.raises(ScriptError, match=r"(?s)expected calls: engineer.*actual calls: planner"):
        server.assert_calls(["engineer"])
    assert server.prompts("planner") == ["the task"]
    assert server.prompts("engineer") == []


def test_many_clients_at_once_on_kept_connections():
    def client(server, failures):
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
        for _ in range(20):
            connection.request("POST", PATHS["openai"], json.dumps(body_for("openai")))
            if text_of("openai", json.load(connection.getresponse())) != "same":
                failures.append(1)
        connection.close()

    failures: list[int] = []
    with ModelServer({"planner": "same"}) as server:
        threads = [threading.Thread(target=client, args=(server, failures)) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert not failures
    assert sorted(each.number for each in server.calls) == list(range(1, 161))


def test_closing_ends_a_hanging_answer():
    with ModelServer({"planner": Fault.hang()}) as server:
        outcome: list[BaseException] = []

        def client():
            try:
                ask(server)
            except (http.client.HTTPException, OSError) as problem:
                outcome.append(problem)

        thread = threading.Thread(target=client)
        thread.start()
        while not server.calls:
            thread.join(0.001)
    thread.join(10)
    assert outcome


def test_other_paths():
    with ModelServer({}) as server:
        assert post(server, "/v1/embeddings", "{}")[0] == 404
        assert post(server, PATHS["openai"], "not json")[0] == 400
        assert server.calls == []


def test_builders():
    assert step("engineer", "fit") == {
        "sub_task": "fit",
        "sub_task_agent": "engineer",
        "bullet_points": ["fit"],
    }
    assert plan(("engineer", "fit", "a", "b"), step("researcher", "write"))["sub_tasks"][0][
        "bullet_points"
    ] == ["a", "b"]
    assert review("more", "less") == {"recommendations": ["more", "less"]}
    assert ideas(("T", "D"))["ideas"][0]["title"] == "T"
    assert notes("\n    # A\n    text\n") == "# A\ntext\n"
    answer = code("\n    x = 1\n    print(x)\n", filename="a.py", remaining="the plot")
    assert "```python\n# filename: a.py\nx = 1\nprint(x)\n```" in answer
    assert answer.endswith("Status: remaining: the plot")
    assert code('print("""```""")').count("~~~") == 2
