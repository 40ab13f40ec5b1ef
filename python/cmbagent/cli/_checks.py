"""What `cmbagent doctor` looks at: each check says what it found and, where that is no good, what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cmbagent import _core
from cmbagent.errors import CmbagentError, JournalError
from cmbagent.store import open_store
from cmbagent.utils import API_KEY_VARIABLES

OK, WARN, FAIL = "ok", "warn", "fail"

TIMEOUT_SECONDS = 3.0
"""How long an address may take to answer."""

SCARCE_BYTES = 2_000_000_000
"""With less free space scripts soon may write no more: they leave a reserve of 1 GB."""

FULL_BYTES = 100_000_000
"""With less free space a run cannot go on."""

_HOMES = {
    "OPENAI": "https://api.openai.com/v1",
    "ANTHROPIC": "https://api.anthropic.com",
    "GEMINI": "https://generativelanguage.googleapis.com",
    "MISTRAL": "https://api.mistral.ai",
}
_EXTRAS = {
    "science": ("numpy", "scipy", "matplotlib", "pandas"),
    "server": ("fastapi", "uvicorn", "websockets"),
    "documents": ("pypdf",),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: `ok`, `warn` (runs go on, with less) or `fail`.
        found: what is there; never a key or a part of one.
        advice: what to do; empty where nothing needs to be done.
    """

    name: str
    status: str
    found: str
    advice: str = ""


def checks(work_dir: Path, online: bool) -> Iterator[Check]:
    """Look at all there is to look at, one thing after the other.

    Args:
        work_dir: where runs would work; it need not exist.
        online: ask the providers' own addresses, too, not only those that are set.
    """
    yield from versions()
    yield from extras()
    yield keys()
    yield from addresses(online)
    yield sandbox()
    yield store()
    yield disk("work directory", work_dir)
    yield from settings()


def versions() -> Iterator[Check]:
    """Python, the package, and the engine that is compiled into it."""
    python = f"{platform.python_version()}, {sys.executable or 'of unknown place'}"
    nowhere = "" if sys.executable else "scripts run in this interpreter, which does not know where it lies"
    yield Check("Python", FAIL if nowhere else OK, python, nowhere)
    package, engine = _version("cmbagent"), _core.__version__
    same = package in (None, engine)
    yield Check(
        "cmbagent",
        OK if same else WARN,
        f"{engine} on {platform.system()} {platform.release()}, {platform.machine()}"
        + ("" if same else f"; the package says {package}"),
        "" if same else "install it anew: its compiled engine is of another version",
    )


def extras() -> Iterator[Check]:
    """What the interpreter of the scripts has beside the package."""
    for extra, names in _EXTRAS.items():
        there = {name: _version(name) for name in names}
        missing = [name for name, version in there.items() if version is None]
        found = ", ".join(f"{name} {version}" for name, version in there.items() if version)
        lacks = f"without {', '.join(missing)}" if missing else ""
        advice = f"pip install 'cmbagent[{extra}]' adds what is missing" if missing else ""
        # What the other two are for is not wanted by most.
        status = WARN if missing and extra == "science" else OK
        yield Check(f"extra [{extra}]", status, "; ".join(filter(None, (found, lacks))), advice)


def keys() -> Check:
    """Which keys are set; they are not shown, not even in part."""
    there = [variable for variable in API_KEY_VARIABLES.values() if os.environ.get(variable, "").strip()]
    own = [name for name in (f"{each}_BASE_URL" for each in _HOMES) if os.environ.get(name, "").strip()]
    if there or own:
        without = "" if there else f"none; {' and '.join(own)} may need none"
        return Check("keys", OK, ", ".join(there) + " set" if there else without)
    return Check(
        "keys",
        FAIL,
        "none is set",
        f"set one of {', '.join(API_KEY_VARIABLES.values())}; or OPENAI_BASE_URL for a server of your own; "
        "`cmbagent demo` needs none",
    )


def addresses(online: bool) -> Iterator[Check]:
    """Whether the servers that are set answer; those of the providers, too, when `online`."""
    for provider, home in _HOMES.items():
        variable = f"{provider}_BASE_URL"
        own = os.environ.get(variable, "").strip()
        if own:
            yield address(variable, own)
        elif online and os.environ.get(API_KEY_VARIABLES[provider], "").strip():
            yield address(provider.capitalize(), home)


def address(name: str, url: str) -> Check:
    """Whether a server answers anything at all; no key is sent."""
    shown = _without_user(url)
    if not url.startswith(("http://", "https://")):
        return Check(name, FAIL, shown, "it must begin with http:// or https://")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        advice = (
            f"start the server, or set {name} right" if name.endswith("_BASE_URL") else "look at your network"
        )
        proxied = any(
            os.environ.get(each) for each in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
        )
        advice += "; a proxy is set in the environment, too" if proxied else ""
        return Check(name, FAIL, f"{shown} cannot be reached: {_core.redact(str(reason))}", advice)
    broken = status >= 500
    return Check(
        name, WARN if broken else OK, f"{shown} answers ({status})", "look at that server" if broken else ""
    )


def sandbox() -> Check:
    """What the machine enforces on scripts."""
    try:
        told = _core.sandbox()
    except RuntimeError as error:
        return Check("sandbox", FAIL, str(error), "docs/sandbox.md says what sandbox='off' gives up")
    enforced, missing = told["enforced"], told["not_enforced"]
    found = f"keeps scripts from: {'; '.join(enforced)}" if enforced else "scripts are not confined"
    confined = any(what.startswith("writes outside") for what in enforced)
    # What no kernel enforces is no shortcoming of this one.
    missing = [what for what in missing if "no rule for" not in what]
    advice = f"not enforced here: {'; '.join(missing)}" if missing else ""
    if not confined:
        advice = "a Linux kernel ≥ 5.13 with Landlock confines scripts, else a container; " + advice
    return Check("sandbox", OK if confined else WARN, found, advice)


def store() -> Check:
    """Whether runs are kept, and where."""
    try:
        opened = open_store(None)
    except JournalError as error:
        return Check("store", FAIL, str(error), "without it runs go on, and cannot be resumed")
    if opened is None:
        return Check("store", WARN, "CMBAGENT_STORE is :memory:", "unset it, so that runs can be resumed")
    try:
        runs = opened.runs()
    except CmbagentError as error:
        return Check("store", FAIL, str(error), "name another file with CMBAGENT_STORE")
    size = _size(opened.path.stat().st_size)
    left = sum(info.resumable and info.parent is None for info in runs)
    found = f"{opened.path}: {size}, schema {opened.schema}, {len(runs)} runs of which {left} can be resumed"
    if not (os.access(opened.path, os.W_OK) and os.access(opened.path.parent, os.W_OK)):
        return Check("store", FAIL, f"{found}; it cannot be written to", "check its permissions and owner")
    free = shutil.disk_usage(opened.path.parent).free
    if free < FULL_BYTES:
        return Check("store", FAIL, f"{found}; its disk has {_size(free)} left", "free some space")
    if opened.network:
        advice = "name a file on a local disk with CMBAGENT_STORE, if the job always runs on this machine"
        return Check("store", WARN, f"{found}; on {opened.network}, which is slower", advice)
    return Check("store", OK, f"{found}; its disk has {_size(free)} left")


def disk(name: str, place: Path) -> Check:
    """Whether there is room where runs would work, and whether it may be used."""
    place = place.expanduser().absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    if not there.is_dir():
        return Check(name, FAIL, f"{there} is no directory", "name another with --work-dir")
    free = shutil.disk_usage(there).free
    found = f"{place}: {_size(free)} free"
    if not os.access(there, os.W_OK | os.X_OK):
        return Check(name, FAIL, f"{found}; {there} cannot be written to", "name another with --work-dir")
    status = FAIL if free < FULL_BYTES else WARN if free < SCARCE_BYTES else OK
    return Check(name, status, found, "free some space" if status != OK else "")


def settings() -> Iterator[Check]:
    """Settings of the environment that hold something no run could use."""
    from cmbagent.approvals import default_manager

    try:
        default_manager()
    except CmbagentError as error:
        yield Check("CMBAGENT_HITL", FAIL, str(error), "unset it, or give it one of these words")
    prices = os.environ.get("CMBAGENT_PRICES", "").strip()
    if prices and not Path(prices).expanduser().is_file():
        found = f"there is no file {prices}"
        yield Check("CMBAGENT_PRICES", FAIL, found, "unset it, or name a table of prices")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _without_user(url: str) -> str:
    """The address without what may be a password in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else "(no address)"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 999_500_000 else f"{count / 1e6:.1f} MB"
