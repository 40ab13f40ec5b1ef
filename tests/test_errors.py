import builtins
import inspect

import pytest

from cmbagent import errors

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and c.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_ours_and_a_builtin(cls):
    assert issubclass(cls, errors.CmbagentError)
    standard = {b for b in cls.__mro__ if b.__module__ == builtins.__name__}
    assert standard > {Exception, BaseException, object} or cls is errors.CmbagentError
    assert str(cls("what, expected, do")) == "what, expected, do"
    assert cls.__doc__


@pytest.mark.parametrize(
    ("cls", "caught_as"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.MissingFileError, FileNotFoundError),
        (errors.PhaseValidationError, ValueError),
        (errors.PhaseFailedError, RuntimeError),
        (errors.PhaseTimeoutError, TimeoutError),
        (errors.MissingKeyError, ValueError),
        (errors.ModelConnectionError, ConnectionError),
        (errors.ModelTimeoutError, TimeoutError),
        (errors.WorkDirError, OSError),
        (errors.RunStoppedError, RuntimeError),
    ],
)
def test_what_existing_code_catches(cls, caught_as):
    with pytest.raises(caught_as, match="text"):
        raise cls("text")


def test_model_errors_say_where():
    error = errors.RateLimitError("slow down")
    assert (error.model, error.agent, error.phase, error.step, error.status) == (None,) * 5
    error.status = 429
    assert errors.RateLimitError("x").status is None
