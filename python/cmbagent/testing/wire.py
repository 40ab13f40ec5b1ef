"""The three wire formats: reading a request, writing an answer, a stream or an error."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cmbagent.testing.replies import Reply

Provider = Literal["openai", "anthropic", "gemini"]

_AGENT = re.compile(r"\s*You are the ([A-Za-z0-9_]+) agent\b")
_GEMINI_PATH = re.compile(r"/models/([^/:]+):(generateContent|streamGenerateContent)$")
_SECRET_HEADERS = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie")
# Small enough that any answer of a sentence comes in several pieces, so that folding is exercised.
_PIECE = 64
_MANY_PIECES = 24


@dataclass
class Call:
    """One request as the server saw it.

    Attributes:
        agent: The agent's name from the system prompt, ``""`` when there is none.
        model: The model asked for.
        provider: ``openai``, ``anthropic`` or ``gemini``: the wire format.
        system: The system prompt.
        prompt: All text of the user's side, in order, with a blank line between the parts.
        pictures: The pictures of the user's side, as bytes, in order.
        body: The request's JSON.
        headers: The headers in lower case; those that carry keys read ``***``.
        path: The path without its query.
        stream: Whether a stream was asked for.
        at: When it came, in seconds of the Unix epoch.
        number: 1 for the first call that the server saw.
        seconds: How long the server took to answer, its delay included.
        reply: The text that was answered; ``""`` after a fault.
        left: Whether the client closed the connection while it was kept waiting.

    """

    agent: str
    model: str
    provider: Provider
    system: str
    prompt: str
    pictures: list[bytes]
    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    stream: bool
    at: float
    number: int
    seconds: float = 0.0
    reply: str = ""
    left: bool = False


def mask(headers: Mapping[str, str]) -> dict[str, str]:
    """Header names in lower case, values of those that carry keys replaced."""
    return {
        name.lower(): "***" if name.lower() in _SECRET_HEADERS else text for name, text in headers.items()
    }


def provider_of(path: str) -> Provider | None:
    """The wire format that a path belongs to, ``None`` for any other path."""
    if path.endswith("/chat/completions"):
        return "openai"
    if path.endswith("/messages"):
        return "anthropic"
    return "gemini" if _GEMINI_PATH.search(path) else None


def read(
    provider: Provider, path: str, body: dict[str, Any], headers: Mapping[str, str], at: float, number: int
) -> Call:
    """A request's JSON as a `Call`."""
    if provider == "gemini":
        found = _GEMINI_PATH.search(path)
        model, method = found.groups() if found else ("", "")
        instruction = body.get("systemInstruction") or body.get("system_instruction")
        system = _texts([instruction] if instruction else [], "parts")
        prompt = _texts([each for each in body.get("contents", []) if each.get("role") != "model"], "parts")
        stream = method == "streamGenerateContent"
    else:
        model, stream = str(body.get("model", "")), bool(body.get("stream", False))
        turns = body.get("messages", [])
        if provider == "anthropic":
            system = _texts([{"content": body.get("system", "")}], "content")
        else:
            system = _texts(
                [each for each in turns if each.get("role") in ("system", "developer")], "content"
            )
        prompt = _texts([each for each in turns if each.get("role") == "user"], "content")
    opening = _AGENT.match(system)
    agent = opening.group(1) if opening else ""
    pictures = _pictures(body.get("contents" if provider == "gemini" else "messages", []))
    return Call(
        agent, model, provider, system, prompt, pictures, body, mask(headers), path, stream, at, number
    )


def _pictures(turns: list[Any]) -> list[bytes]:
    found: list[bytes] = []
    for turn in turns:
        parts = turn.get("parts") or turn.get("content") or []
        for part in parts if isinstance(parts, list) else []:
            # One key a wire format; what it holds is Base64, behind `data:image/png;base64,` in OpenAI's.
            data = part.get("inlineData", {}).get("data") or part.get("image_url", {}).get("url")
            data = data or (part["source"]["data"] if part.get("type") == "image" else "")
            if data:
                found.append(base64.b64decode(data.rpartition(",")[2]))
    return found


def _texts(turns: list[Any], key: str) -> str:
    found: list[str] = []
    for turn in turns:
        content = turn.get(key) or ""
        parts = [{"text": content}] if isinstance(content, str) else content
        found.extend(part["text"] for part in parts if part.get("text"))
    return "\n\n".join(found)


def _tokens(call: Call, reply: Reply) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    prompt, answer = reply.prompt_tokens, reply.completion_tokens
    if prompt is None:
        prompt = max(1, (len(call.system) + len(call.prompt)) // 4, reply.cached_tokens)
    if answer is None:
        answer = max(1, len(reply.text) // 4) + reply.reasoning_tokens
    return prompt, answer


def _pieces(text: str) -> list[str]:
    size = max(_PIECE, -(-len(text) // _MANY_PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]


def whole(call: Call, reply: Reply) -> dict[str, Any]:
    """The answer as one JSON object."""
    return {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}[call.provider](call, reply)


def stream(call: Call, reply: Reply) -> list[str]:
    """The answer as server-sent events, each with its blank line."""
    if call.provider == "anthropic":
        named = _anthropic_events(call, reply)
        return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in named]
    if call.provider == "gemini":
        return [f"data: {json.dumps(each)}\n\n" for each in _gemini_events(call, reply)]
    return [*(f"data: {json.dumps(each)}\n\n" for each in _openai_events(call, reply)), "data: [DONE]\n\n"]


def error(provider: Provider, status: int, message: str) -> dict[str, Any]:
    """An error in the provider's own words."""
    kinds = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
    kinds |= {
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        529: "overloaded_error",
    }
    kind = kinds.get(status, "api_error")
    text = message or f"The server answers with status {status}."
    if provider == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": text}}
    if provider == "gemini":
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        names |= {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
        return {"error": {"code": status, "message": text, "status": names.get(status, "INTERNAL")}}
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


# --- OpenAI Chat Completions -------------------------------------------------------------------


def _openai_usage(call: Call, reply: Reply) -> dict[str, Any]:
    prompt, answer = _tokens(call, reply)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
    }


def _openai_frame(call: Call, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{call.number}", "object": kind, "created": int(call.at), "model": call.model}


def _openai(call: Call, reply: Reply) -> dict[str, Any]:
    refused = reply.finish == "refusal"
    message: dict[str, Any] = {"role": "assistant", "content": None if refused else reply.text}
    message["refusal"] = reply.text if refused else None
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    finish = "length" if reply.finish == "length" else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {
        **_openai_frame(call, "chat.completion"),
        "choices": [choice],
        "usage": _openai_usage(call, reply),
    }


def _openai_events(call: Call, reply: Reply) -> Iterator[dict[str, Any]]:
    frame = _openai_frame(call, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    for piece in _pieces(reply.thinking):
        yield chunk({"reasoning_content": piece})
    field = "refusal" if reply.finish == "refusal" else "content"
    for piece in _pieces(reply.text):
        yield chunk({field: piece})
    yield chunk({}, "length" if reply.finish == "length" else "stop")
    if (call.body.get("stream_options") or {}).get("include_usage"):
        yield {**frame, "choices": [], "usage": _openai_usage(call, reply)}


# --- Anthropic Messages ------------------------------------------------------------------------


def _forced_tool(call: Call, reply: Reply) -> tuple[str, dict[str, Any]] | None:
    """The tool that the request insists on, with the answer as its input where it is a JSON object."""
    choice = call.body.get("tool_choice") or {}
    if choice.get("type") != "tool":
        return None
    try:
        value = json.loads(reply.text)
    except ValueError:
        return None
    return (choice["name"], value) if isinstance(value, dict) else None


def _anthropic_frame(call: Call, reply: Reply) -> dict[str, Any]:
    prompt, answer = _tokens(call, reply)
    usage = {
        "input_tokens": prompt - reply.cached_tokens,
        "cache_read_input_tokens": reply.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": answer,
    }
    return {
        "id": f"msg_{call.number}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _anthropic_blocks(call: Call, reply: Reply) -> tuple[list[dict[str, Any]], str]:
    """The content blocks and the reason to stop."""
    blocks: list[dict[str, Any]] = []
    if reply.thinking:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": "signed"})
    tool = _forced_tool(call, reply)
    if tool:
        blocks.append({"type": "tool_use", "id": f"toolu_{call.number}", "name": tool[0], "input": tool[1]})
    elif reply.text:
        blocks.append({"type": "text", "text": reply.text})
    reasons = {"length": "max_tokens", "refusal": "refusal", "stop": "tool_use" if tool else "end_turn"}
    return blocks, reasons[reply.finish]


def _anthropic(call: Call, reply: Reply) -> dict[str, Any]:
    blocks, reason = _anthropic_blocks(call, reply)
    return {**_anthropic_frame(call, reply), "content": blocks, "stop_reason": reason}


def _anthropic_events(call: Call, reply: Reply) -> Iterator[dict[str, Any]]:
    message = _anthropic_frame(call, reply)
    answer = message["usage"]["output_tokens"]
    yield {"type": "message_start", "message": {**message, "usage": {**message["usage"], "output_tokens": 1}}}
    blocks, reason = _anthropic_blocks(call, reply)
    for index, block in enumerate(blocks):
        if block["type"] == "tool_use":
            start = {**block, "input": {}}
            deltas = [
                ("input_json_delta", "partial_json", each) for each in _pieces(json.dumps(block["input"]))
            ]
        elif block["type"] == "thinking":
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [("thinking_delta", "thinking", each) for each in _pieces(block["thinking"])]
            deltas.append(("signature_delta", "signature", block["signature"]))
        else:
            start = {"type": "text", "text": ""}
            deltas = [("text_delta", "text", each) for each in _pieces(block["text"])]
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for kind, name, piece in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: piece}}
        yield {"type": "content_block_stop", "index": index}
    delta = {"stop_reason": reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": answer}}
    yield {"type": "message_stop"}


# --- Gemini generateContent --------------------------------------------------------------------


def _gemini_frame(call: Call, reply: Reply) -> dict[str, Any]:
    prompt, answer = _tokens(call, reply)
    usage = {"promptTokenCount": prompt, "candidatesTokenCount": answer - reply.reasoning_tokens}
    usage |= {"totalTokenCount": prompt + answer, "cachedContentTokenCount": reply.cached_tokens}
    usage |= {"thoughtsTokenCount": reply.reasoning_tokens}
    return {"usageMetadata": usage, "modelVersion": call.model, "responseId": f"resp-{call.number}"}


def _gemini_events(call: Call, reply: Reply) -> list[dict[str, Any]]:
    frame = _gemini_frame(call, reply)
    if reply.finish == "refusal":
        candidate = {
            "content": {"role": "model"},
            "finishReason": "SAFETY",
            "finishMessage": reply.text,
            "index": 0,
        }
        return [{"candidates": [candidate], **frame}]
    parts: list[dict[str, Any]] = [{"text": each, "thought": True} for each in _pieces(reply.thinking)]
    parts += [{"text": each} for each in _pieces(reply.text)] or [{"text": ""}]
    events: list[dict[str, Any]] = [
        {"candidates": [{"content": {"role": "model", "parts": [each]}, "index": 0}], **frame}
        for each in parts
    ]
    events[-1]["candidates"][0]["finishReason"] = "MAX_TOKENS" if reply.finish == "length" else "STOP"
    return events


def _gemini(call: Call, reply: Reply) -> dict[str, Any]:
    events = _gemini_events(call, reply)
    last = events[-1]["candidates"][0]
    if reply.finish != "refusal":
        parts = [{"text": reply.thinking, "thought": True}] if reply.thinking else []
        last["content"]["parts"] = [*parts, {"text": reply.text}]
    return events[-1]
