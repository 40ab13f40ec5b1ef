"""The demonstration: a whole research run, with scripted models and real computation.

Everything but the models is real: the engine plans, has the plan reviewed, runs the engineer's scripts
and hands what they print to the researcher. The models' part is played by
`cmbagent.testing.ModelServer` on this machine, so that neither a key nor a network is needed.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

TASK = (
    "Simulate a CMB-like temperature map on a flat patch of sky, measure its binned power spectrum with "
    "error bars, and test whether the measurement agrees with the input spectrum. Conclude with a written "
    "report."
)

_NEEDED = ("numpy", "scipy", "matplotlib")


def run_demo(work_dir: str | Path = "demo_output") -> int:
    """Runs ``deep_research`` on a small science task against scripted models.

    Args:
        work_dir: Where everything lands; created when missing.

    Returns:
        0 when the run completed; 1 when it failed or when numpy, scipy or matplotlib are missing, after
        saying so.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        _say(f"The demo computes with {', '.join(_NEEDED)}; not installed here: {', '.join(missing)}.")
        _say("Install them with:  pip install 'cmbagent[science]'")
        return 1

    from cmbagent.demo.script import MODELS, REPORT, script
    from cmbagent.testing import ModelServer
    from cmbagent.workflows import deep_research

    root = Path(work_dir).expanduser().resolve()
    _say("Demo: the models are scripted and answer from this machine (no key, no network); the rest is real.")
    with ModelServer(script()) as server, server.environment():
        results = deep_research(
            TASK,
            max_plan_steps=3,
            n_plan_reviews=1,
            plan_instructions="The last step is the researcher's report.",
            researcher_filename=REPORT,
            work_dir=root,
            api_keys=server.api_keys,
            **MODELS,
        )
        problems = list(server.errors)
    if results.get("status") == "failed" or problems:
        for each in [results.get("error"), *problems]:
            if each:
                print(f"error: {each}", file=sys.stderr)
        return 1
    _say("\nWhat the run left behind:\n" + tree(root))
    _say(f"\nThe report: {root / 'control' / REPORT}")
    return 0


def tree(root: Path) -> str:
    """The files below ``root`` with their sizes, hidden ones left out, as an indented list."""
    lines = [f"{root}/"]
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts):
            continue
        name = "  " * len(relative.parts) + path.name
        lines.append(f"{name}/" if path.is_dir() else f"{name:<58} {size(path.stat().st_size):>9}")
    return "\n".join(lines)


def size(count: int) -> str:
    """A number of bytes for people: ``812 B``, ``4.2 kB``, ``1.3 MB``."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 999_950 else f"{count / 1e6:.1f} MB"


def _say(text: str) -> None:
    print(text, flush=True)
