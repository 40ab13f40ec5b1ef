"""`cmbagent workflows`: what there is to run."""

from __future__ import annotations

from cmbagent.cli._app import AsJson, Debug, app
from cmbagent.cli._told import Told


@app.command()
def workflows(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the workflows that `cmbagent run` knows."""
    from cmbagent.workflows import SYSTEM_WORKFLOWS

    told = Told(debug, as_json)
    with told:
        width = max(len(name) for name in SYSTEM_WORKFLOWS)
        lines = [
            f"{name:<{width}}  {each.name}: {' → '.join(phase['type'] for phase in each.phases)}"
            for name, each in SYSTEM_WORKFLOWS.items()
        ]
        told.say([each.to_dict() for each in SYSTEM_WORKFLOWS.values()], "\n".join(lines))
