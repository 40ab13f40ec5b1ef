"""A program that runs a workflow, for tests that interrupt and kill it: `host.py WHAT HOW WORK_DIR`."""

import asyncio
import signal
import sys
import threading
import time

from procs import Do, engineer, executor


async def sleeps(context):
    print("begun", flush=True)
    await asyncio.sleep(600)


async def stubborn(context):
    print("begun", flush=True)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        await asyncio.sleep(600)


async def blocks(context):
    print("begun", flush=True)
    told = False
    while True:
        time.sleep(0.01)
        if not told and asyncio.current_task().cancelling():
            told = True
            print("cancelled", flush=True)


async def spins(context):
    print("begun", flush=True)
    while True:
        pass


PHASES = {"sleeps": sleeps, "stubborn": stubborn, "blocks": blocks, "spins": spins}


def make(what, work_dir):
    phase = Do(PHASES[what]) if what in PHASES else engineer()
    return executor(work_dir, phase)


def run(ran, how):
    if how == "run_sync":
        ran.run_sync()
    elif how == "asyncio":
        asyncio.run(ran.run())
    elif how == "nested":

        async def main():
            ran.run_sync()

        asyncio.run(main())
    elif how == "daemon":
        threading.Thread(target=ran.run_sync, daemon=True).start()
        sys.stdin.readline()
    elif how == "left":
        # Half a run, whose loop is neither run nor closed any more when the interpreter ends.
        loop = asyncio.new_event_loop()
        task = loop.create_task(ran.run())
        reading = loop.run_in_executor(None, sys.stdin.readline)
        loop.run_until_complete(reading)
        globals()["kept"] = (loop, task)
    else:
        raise ValueError(how)


def spawned(work_dir):
    """What a worker process does."""
    from cmbagent.testing import ModelServer, notes
    from procs import researcher

    with ModelServer({"researcher": notes("# Title\n\nText.")}) as server, server.environment():
        ran = executor(work_dir, researcher())
        ran.run_sync()
    return ran.outcome


if __name__ == "__main__":
    made = make(sys.argv[1], sys.argv[3])
    if "shown" in sys.argv[4:]:
        made.verbose = None
    if "own" in sys.argv[4:]:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    run(made, sys.argv[2])
