"""What a scripted agent says: answers, faults, and builders for the answers the agents give."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Finish = Literal["stop", "length", "refusal"]
FaultKind = Literal["status", "drop", "hang", "truncate", "garbage", "stall", "trickle", "error_in_stream"]


@dataclass(frozen=True)
class Reply:
    """An answer with its accounting.

    Args:
        text: What the agent says.
        finish: Why the model stopped; ``length`` and ``refusal`` are told in each provider's own way.
        prompt_tokens: Tokens of the prompt, cached ones included; ``None`` counts a token for every
            four characters.
        completion_tokens: Tokens of the answer, reasoning included; ``None`` counts likewise.
        cached_tokens: How many of the prompt's tokens came from the provider's cache.
        reasoning_tokens: How many of the answer's tokens were spent on reasoning.
        thinking: Reasoning shown beside the answer, in the provider's own field.

    """

    text: str
    finish: Finish = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    thinking: str = ""


@dataclass(frozen=True)
class Fault:
    """A way in which a server or a connection misbehaves; made by the class methods below.

    One request uses up one fault, so ``[Fault.status(429), "hello"]`` fails once and then answers.
    """

    kind: FaultKind
    code: int = 200
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | Mapping[str, Any] | None = None
    seconds: float = 0.0
    reply: Reply = field(default_factory=lambda: Reply(""))

    @classmethod
    def status(
        cls,
        code: int,
        message: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: str | Mapping[str, Any] | None = None,
    ) -> Fault:
        """An HTTP status.

        Args:
            code: The status, such as 429.
            message: The provider's words, put into its own error format.
            headers: Additional headers, such as ``{"Retry-After": "1"}``.
            body: The whole body, in place of the provider's format.

        """
        return cls("status", code=code, message=message, headers=dict(headers or {}), body=body)

    @classmethod
    def drop(cls) -> Fault:
        """The connection closes without a word."""
        return cls("drop")

    @classmethod
    def hang(cls, seconds: float = 3600.0) -> Fault:
        """Silence, then the connection closes.

        Args:
            seconds: How long the silence lasts, at most until the server closes.

        """
        return cls("hang", seconds=seconds)

    @classmethod
    def truncate(cls, text: str = "This answer breaks off in the middle of") -> Fault:
        """The first half of an answer comes, then the connection closes.

        Args:
            text: The answer.

        """
        return cls("truncate", reply=Reply(text))

    @classmethod
    def stall(cls, text: str = "This answer stops coming after", seconds: float = 3600.0) -> Fault:
        """The first half of an answer comes, then silence, then the connection closes.

        Args:
            text: The answer.
            seconds: How long the silence lasts.

        """
        return cls("stall", reply=Reply(text), seconds=seconds)

    @classmethod
    def trickle(cls, text: str, seconds: float = 0.01) -> Fault:
        """The whole answer, piece by piece.

        Args:
            text: The answer.
            seconds: The pause between two pieces.

        """
        return cls("trickle", reply=Reply(text), seconds=seconds)

    @classmethod
    def garbage(cls, body: str = "<html><body>502 from a proxy</body></html>") -> Fault:
        """Status 200 and a body that is no answer at all.

        Args:
            body: The body; it is sent as HTML.

        """
        return cls("garbage", body=body)

    @classmethod
    def error_in_stream(cls, message: str = "Overloaded") -> Fault:
        """Status 200, the start of an answer, then the provider's error object (when streaming).

        Args:
            message: What the error object says.

        """
        return cls("error_in_stream", code=529, message=message, reply=Reply("This answer meets an"))

    @staticmethod
    def empty() -> Reply:
        """A well-formed answer that says nothing."""
        return Reply("")

    @staticmethod
    def refusal(text: str = "I cannot help with that.") -> Reply:
        """The model declines.

        Args:
            text: In which words.

        """
        return Reply(text, finish="refusal")

    @staticmethod
    def length(text: str) -> Reply:
        """The answer was cut by the model's output limit.

        Args:
            text: What had come.

        """
        return Reply(text, finish="length")


def step(agent: str, sub_task: str, *bullets: str) -> dict[str, Any]:
    """One step of a plan.

    Args:
        agent: The agent in charge.
        sub_task: What is to be done.
        bullets: What that agent is told to do, point by point; without any the sub-task is repeated.

    """
    return {"sub_task": sub_task, "sub_task_agent": agent, "bullet_points": list(bullets) or [sub_task]}


def plan(*steps: Mapping[str, Any] | tuple[str, ...]) -> dict[str, Any]:
    """The planner's answer.

    Args:
        steps: Made by `step`, or tuples ``(agent, sub_task, bullet, …)``.

    """
    return {"sub_tasks": [step(*each) if isinstance(each, tuple) else dict(each) for each in steps]}


def review(*recommendations: str) -> dict[str, Any]:
    """The plan reviewer's answer: one concrete change an argument."""
    return {"recommendations": list(recommendations)}


def ideas(*items: Mapping[str, str] | tuple[str, str]) -> dict[str, Any]:
    """The idea agents' answer: mappings of fields, or tuples ``(title, description)``."""
    fields = ("title", "description", "data_needed", "method", "expected_result", "risk")
    made = [
        dict(zip(fields, each, strict=False)) if isinstance(each, tuple) else dict(each) for each in items
    ]
    return {"ideas": [{name: each.get(name, "") for name in fields} for each in made]}


def judgement(*plots: str | tuple[str, ...]) -> dict[str, Any]:
    """The plot judge's answer.

    Args:
        plots: A plot's name where it may stay, or a tuple ``(name, problem, …)`` where it is to be mended.

    """
    made = []
    for each in plots:
        name, *problems = (each,) if isinstance(each, str) else each
        verdict = "retry" if problems else "continue"
        made.append({"plot": name, "criteria": [], "problems": problems, "fixes": [], "verdict": verdict})
    return {"plots": made}


def code(
    source: str,
    filename: str | None = None,
    explanation: str = "The script does the sub-task.",
    remaining: str | None = None,
    modifications: str | None = None,
) -> str:
    """The engineer's answer: an explanation, one Python block, and the closing status line.

    Args:
        source: The script; common indentation is removed.
        filename: Named in the block's first line, such as ``fit.py``; ``None`` leaves it to the engine.
        explanation: The words before the block.
        remaining: What is left to do once the script has run; ``None`` says that the step is finished.
        modifications: What changed since the last try.

    """
    body = textwrap.dedent(source).strip("\n")
    fence = "~~~" if "```" in body else "```"
    parts = [f"**Code Explanation:**\n\n{explanation}"]
    if modifications:
        parts.append(f"**Modifications:**\n\n{modifications}")
    head = f"# filename: {filename}\n" if filename else ""
    parts.append(f"**Python Code:**\n\n{fence}python\n{head}{body}\n{fence}")
    parts.append(f"Status: remaining: {remaining}" if remaining else "Status: finished")
    return "\n\n".join(parts)


def notes(markdown: str) -> str:
    """The researcher's answer: Markdown with its common indentation removed."""
    return textwrap.dedent(markdown).strip() + "\n"
