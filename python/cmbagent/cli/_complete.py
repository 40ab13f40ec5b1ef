"""What a shell offers on Tab: workflows, runs, types of phases."""

from __future__ import annotations

from cmbagent._words import ago, one_line

Offers = list[tuple[str, str]]
"""Words, each with a help text; the shell asks for them anew on each Tab."""

_RUNS = 50


def workflows(incomplete: str) -> Offers:
    """Offer the ids of workflows."""
    from cmbagent.workflows import SYSTEM_WORKFLOWS

    return [(name, each.name) for name, each in SYSTEM_WORKFLOWS.items() if name.startswith(incomplete)]


def phases(incomplete: str) -> Offers:
    """Offer the types of phases."""
    from cmbagent.phases import PhaseRegistry

    fitting = [name for name in sorted(PhaseRegistry.list_all()) if name.startswith(incomplete)]
    return [(name, PhaseRegistry.get_info(name)["display_name"]) for name in fitting]


def runs(incomplete: str) -> Offers:
    """Offer the ids of the newest runs; none where the store cannot be read, for a Tab tells no errors."""
    from cmbagent.errors import CmbagentError
    from cmbagent.store import open_store

    try:
        store = open_store(None)
        found = [] if store is None else store.runs()
    except CmbagentError:
        return []
    fitting = [info for info in found if info.id.startswith(incomplete) and info.parent is None]
    return [
        (info.id, f"{info.status}, {ago(info.updated)}: {one_line(info.task, 40)}")
        for info in fitting[:_RUNS]
    ]
