"""What can go wrong, one class a kind.

Every class is a [`CmbagentError`][cmbagent.errors.CmbagentError] and also the builtin exception that existing
code catches for the same kind of trouble: a failed phase is a `RuntimeError`, a wrong setting a `ValueError`,
a missing file a `FileNotFoundError`. Each takes one message.
"""

from __future__ import annotations


class CmbagentError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(CmbagentError, ValueError):
    """An argument, a setting or a definition cannot be used as given."""


class MissingFileError(CmbagentError, FileNotFoundError):
    """A file that a call needs is not there."""


class WorkDirError(CmbagentError, OSError):
    """The work directory cannot be used: not writable, in use by another run, or too precious to clear."""


class PhaseValidationError(CmbagentError, ValueError):
    """A phase refused its input before it started."""


class PhaseFailedError(CmbagentError, RuntimeError):
    """A phase ended without success; the text is `Phase {type} failed: {reason}`."""


class PhaseTimeoutError(CmbagentError, TimeoutError):
    """A phase took longer than its `timeout_seconds`."""


class JournalError(CmbagentError, RuntimeError):
    """The record of a run could not be written or read."""


class ExecutionError(CmbagentError, RuntimeError):
    """A script could not be started or supervised (a script that merely fails is no exception)."""


class ForkError(CmbagentError, RuntimeError):
    """The process was forked after the engine had started; the engine's threads did not come along."""


class RunStoppedError(CmbagentError, RuntimeError):
    """The run was cancelled: by a callback's `should_continue`, or by whoever controls it."""


class DownloadError(CmbagentError, ConnectionError):
    """A document could not be downloaded."""


class LimitError(CmbagentError, RuntimeError):
    """A limit of the caller's was reached, such as `max_rounds`; the text names the setting."""


class OverLimitError(LimitError):
    """The next call or script would exceed `max_cost`, `max_tokens`, `max_llm_calls` or `max_wall_seconds`.

    The run has stopped and can be resumed with a higher limit.
    """


class ModelError(CmbagentError, RuntimeError):
    """A call to a language model failed.

    Attributes:
        model: the model asked, where known.
        agent: the agent that asked.
        phase: the phase type in which it happened.
        step: the plan step, 1-based.
        status: the HTTP status of the answer.
    """

    model: str | None = None
    agent: str | None = None
    phase: str | None = None
    step: int | None = None
    status: int | None = None


class MissingKeyError(ModelError, ValueError):
    """No API key was given for the provider of a model."""


class AuthenticationError(ModelError):
    """The provider refused the API key."""


class ModelNotFoundError(ModelError):
    """The provider does not know the model, or the key may not use it."""


class BadRequestError(ModelError):
    """The provider rejected the request and asking again would not help."""


class ContextLengthError(BadRequestError):
    """The prompt is longer than the model reads."""


class RateLimitError(ModelError):
    """The provider's rate or spending limit was reached and did not clear in time."""


class ServerError(ModelError):
    """The provider kept answering with a fault of its own."""


class ModelConnectionError(ModelError, ConnectionError):
    """The provider could not be reached, or the connection broke."""


class ModelTimeoutError(ModelError, TimeoutError):
    """The provider did not answer in time."""


class BadReplyError(ModelError):
    """The answer could not be read, or did not have the form asked for."""


class RefusalError(ModelError):
    """The model declined to answer."""


class IncompleteAnswerError(ModelError):
    """The answer was cut off at the model's output limit."""


class TapeError(ModelError):
    """The tape lacks a call, has another one there and `strict` was asked for, or could not be written."""
