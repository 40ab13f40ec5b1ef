"""A Jupyter kernel for tests: cells are run, interrupted and answered, and what they show is kept."""

import os
from pathlib import Path
from types import SimpleNamespace

from jupyter_client.manager import start_new_kernel

from procs import PATIENCE

CELL = """
import asyncio, threading
from procs import Do, engineer, executor
from cmbagent.callbacks import WorkflowCallbacks

async def sleeps(context):
    print("begun", flush=True)
    await asyncio.sleep(600)

async def blocks(context):
    import time
    print("begun", flush=True)
    time.sleep(600)

def make(what, work_dir, **kwargs):
    phase = Do({"sleeps": sleeps, "blocks": blocks}[what]) if what in ("sleeps", "blocks") else engineer()
    ran = executor(work_dir, phase, **kwargs)
    ran.verbose = False
    return ran
"""

START = {"run_sync": "ran.run_sync()", "await": "await ran.run()"}


class Kernel:
    def __init__(self):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        # Someone sits at this notebook.
        for name in ("CI", "PYTEST_CURRENT_TEST"):
            environment.pop(name, None)
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment)
        self.run(CELL)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def start(self, source, attended=False):
        return self.client.execute(source, allow_stdin=attended)

    def question(self):
        """The prompt of the next question to whoever sits at the notebook."""
        return self.client.get_stdin_msg(timeout=PATIENCE)["content"]["prompt"]

    def printed(self):
        """The text of the next message that prints something."""
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "stream":
                return message["content"]["text"]

    def end(self, request, also=None):
        """What a cell printed and came to; `also` names an earlier one whose output still comes."""
        text, value, shown, error, displays = "", None, {}, None, []
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            kind, content = message["msg_type"], message["content"]
            parent = message["parent_header"].get("msg_id")
            if parent != request and (parent is None or parent != also):
                continue
            if kind == "stream":
                text += content["text"]
            elif kind == "execute_result":
                shown = content["data"]
                value = shown["text/plain"]
            elif kind in ("display_data", "update_display_data"):
                update = kind.startswith("update")
                displays.append(SimpleNamespace(update=update, parent=parent, **content))
            elif kind == "error":
                error = content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                break
        self.client.get_shell_msg(timeout=PATIENCE)
        return SimpleNamespace(text=text, value=value, shown=shown, error=error, displays=displays)

    def run(self, source):
        return self.end(self.start(source))

    def serve(self, server):
        self.run(f"import os; os.environ.update({server.variables!r})")
