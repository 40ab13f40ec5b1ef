"""Runs in a real Jupyter kernel: in cells, interrupted, and what they show there."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyter_client.manager import start_new_kernel

from cmbagent.testing import Fault, code
from procs import PATIENCE, found, sleeper, wait_for, wait_until_gone

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
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment)
        self.run(CELL)

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def start(self, source):
        return self.client.execute(source)

    def printed(self):
        """The text of the next message that prints something."""
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "stream":
                return message["content"]["text"]

    def end(self, request):
        """What a cell printed and came to."""
        text, value, error = "", None, None
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                text += content["text"]
            elif kind == "execute_result":
                value = content["data"]["text/plain"]
            elif kind == "error":
                error = content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                break
        self.client.get_shell_msg(timeout=PATIENCE)
        return SimpleNamespace(text=text, value=value, error=error)

    def run(self, source):
        return self.end(self.start(source))

    def serve(self, server):
        self.run(f"import os; os.environ.update({server.variables!r})")


@pytest.fixture(scope="module")
def kernel():
    made = Kernel()
    yield made
    made.close()


@pytest.mark.parametrize("how", ["run_sync", "await"])
def test_run_in_a_cell(kernel, serve, tmp_path, how):
    kernel.serve(serve({"engineer": code("print('the result is 42')", filename="a.py")}))
    cell = f"""
threads = []
def hear(*_):
    threads.append(threading.current_thread())
    print("heard")

callbacks = WorkflowCallbacks(on_code_execution=hear)
ran = make("script", {str(tmp_path)!r}, callbacks=callbacks)
ran.verbose = True
{START[how]}
(ran.outcome, threads == [threading.main_thread()])
"""
    ended = kernel.run(cell)
    assert (ended.error, ended.value) == (None, "('completed', True)")
    assert "the result is 42" in ended.text
    assert "heard" in ended.text


@pytest.mark.parametrize("how", ["run_sync", "await"])
@pytest.mark.parametrize("what", ["model", "script", "sleeps"])
def test_interrupt_of_a_cell(kernel, serve, tmp_path, what, how):
    server = serve({"engineer": sleeper() if what == "script" else Fault.hang()})
    kernel.serve(server)
    request = kernel.start(f"ran = make({what!r}, {str(tmp_path)!r})\n{START[how]}")
    if what == "sleeps":
        assert kernel.printed() == "begun\n"
    else:
        wait_for(lambda: server.calls if what == "model" else found(tmp_path))
    kernel.manager.interrupt_kernel()
    assert kernel.end(request).error == "KeyboardInterrupt"
    if what == "script":
        wait_until_gone(found(tmp_path))
    assert kernel.run("6 * 7").value == "42"
    # Nothing of it goes on.
    assert kernel.run("len([t for t in threading.enumerate() if t.name == 'cmbagent-loop'])").value == "0"


def test_interrupt_of_a_phase_that_blocks_its_thread(kernel, tmp_path):
    request = kernel.start(f"make('blocks', {str(tmp_path)!r}).run_sync()")
    assert kernel.printed() == "begun\n"
    kernel.manager.interrupt_kernel()
    ended = kernel.end(request)
    assert ended.error == "KeyboardInterrupt"
    assert "phase 'do' of workflow 'w' did not stop" in ended.text
    assert kernel.run("6 * 7").value == "42"


@pytest.mark.parametrize("how", ["run_sync", "await"])
def test_error_in_a_cell(kernel, tmp_path, how):
    cell = f"""
async def fails(context):
    raise KeyError("mine")
ran = executor({str(tmp_path)!r}, fails)
{START[how]}
"""
    assert kernel.run(cell).error == "KeyError"
    assert kernel.run("6 * 7").value == "42"
