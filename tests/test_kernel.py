"""Runs in a real Jupyter kernel: in cells, interrupted, and what they show there."""

import pytest

from cmbagent.testing import Fault, code
from kernel import START, Kernel
from procs import found, sleeper, wait_for, wait_until_gone


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


@pytest.mark.parametrize("how", ["run_sync", "await"])
def test_interrupt_of_a_cell_says_how_to_go_on(kernel, serve, tmp_path, how):
    server = serve({"engineer": Fault.hang()})
    kernel.serve(server)
    request = kernel.start(f"ran = make('model', {str(tmp_path)!r})\nran.verbose = None\n{START[how]}")
    wait_for(lambda: server.calls)
    kernel.manager.interrupt_kernel()
    ended = kernel.end(request)
    assert ended.error == "KeyboardInterrupt"
    run = kernel.run("ran.context.run_id").value
    assert ended.text.count(f"Interrupted. To go on: cmbagent.resume({run})\n") == 1


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


PLOT = """
import base64
with open("data/plot.png", "wb") as file:
    file.write(base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="))
print("plotted")
"""


def check_displays(displays):
    """One progress line that changed in place, and one plot."""
    plots = [each for each in displays if "image/png" in each.data]
    progress = [each for each in displays if "display_id" in each.transient]
    assert [each.data["text/plain"].endswith("data/plot.png") for each in plots] == [True]
    assert len({each.transient["display_id"] for each in progress}) == 1
    assert [each.update for each in progress] == [False] + [True] * (len(progress) - 1)
    assert len(progress) > 2
    assert "completed" in progress[-1].data["text/plain"]
    # The plot appears as it is made, not at the end.
    assert displays.index(plots[0]) < displays.index(progress[-1])


@pytest.mark.parametrize("how", ["run_sync", "await", "start"])
def test_progress_and_plots_in_a_cell(kernel, serve, tmp_path, how):
    kernel.serve(serve({"engineer": code(PLOT, filename="a.py")}))
    start = {**START, "start": "ran.start().result(20)"}[how]
    ended = kernel.run(f"ran = make('script', {str(tmp_path)!r})\nran.verbose = True\n{start}; ran.outcome")
    assert (ended.error, ended.value) == (None, "'completed'")
    assert "plotted" in ended.text
    check_displays(ended.displays)


def test_run_in_the_background_leaves_the_kernel_free(kernel, serve, tmp_path):
    kernel.serve(serve({"engineer": code(PLOT, filename="a.py")}))
    cell = f"""
gate = threading.Event()
async def waits(context):
    while not gate.is_set():
        await asyncio.sleep(0.01)
ran = executor({str(tmp_path)!r}, waits, engineer())
ran.verbose = True
handle = ran.start()
handle.status()["status"]
"""
    started = kernel.start(cell)
    assert kernel.end(started).value == "'running'"
    assert kernel.run("6 * 7").value == "42"
    listening = "gate.set(); [kind async for kind, _ in ran.events()][-1]"
    other = kernel.start(listening)
    ended = kernel.end(other, also=started)
    assert (ended.error, ended.value) == (None, "'run_finished'")
    # What the run shows belongs to the cell that started it.
    assert [each.parent for each in ended.displays if "image/png" in each.data] == [started]
    assert kernel.run("(await handle) is ran.context").value == "True"
    assert kernel.run("handle.status()['status']").value == "'completed'"


def test_cancel_from_another_cell(kernel, serve, tmp_path):
    server = serve({"engineer": Fault.hang()})
    kernel.serve(server)
    kernel.run(f"handle = make('model', {str(tmp_path)!r}).start()")
    wait_for(lambda: server.calls)
    assert kernel.run("handle.cancel()").value == "True"
    assert kernel.run("handle.result(20)").error == "CancelledError"
    assert kernel.run("6 * 7").value == "42"


def test_interrupt_while_waiting_for_a_result_leaves_the_run_alone(kernel, tmp_path):
    # In a cell of its own: an interrupt while it starts would be another matter.
    kernel.run(f"handle = make('sleeps', {str(tmp_path)!r}).start()")
    request = kernel.start("print('waits', flush=True)\nhandle.result()")
    while "waits" not in kernel.printed():
        pass
    kernel.manager.interrupt_kernel()
    assert kernel.end(request).error == "KeyboardInterrupt"
    assert kernel.run("handle.status()['status']").value == "'running'"
    assert kernel.run("handle.cancel()").value == "True"
    assert kernel.run("handle.result(20)").error == "CancelledError"


def test_run_in_the_background_that_would_ask_in_a_cell_is_warned_about(kernel, tmp_path):
    cell = f"""
import warnings
from cmbagent.approvals import ConsoleApprovalManager, QueueApprovalManager
from cmbagent.phases import HITLCheckpointConfig, HITLCheckpointPhase
def warned(manager):
    ran = executor({str(tmp_path)!r}, HITLCheckpointPhase(HITLCheckpointConfig()), approval_manager=manager)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle = ran.start()
        handle.cancel()
    return ["QueueApprovalManager" in str(each.message) for each in caught]
warned(ConsoleApprovalManager()), warned(QueueApprovalManager())
"""
    assert kernel.run(cell).value == "([True], [])"
