"""A process that was asked to stop ends in order, at whatever point it is asked again."""

import signal
import subprocess
import sys

STAGES = ["running", "stopping", "closing", "loop closed", "exiting", "modules gone"]
# At each stage it says where it is, and goes on when it was sent a byte.
CHILD = """
import asyncio, atexit, os
from tidelens.process.signals import stop_signal

def pause(stage, read=os.read, write=os.write):
    write(1, stage.encode() + b"\\n")
    read(0, 1)

class Last:
    def __del__(self, pause=pause):
        pause("modules gone")

async def main():
    async with stop_signal() as stop:
        pause("running")
        await stop.wait()
        pause("stopping")
    pause("closing")

last = Last()
atexit.register(pause, "exiting")
asyncio.run(main())
pause("loop closed")
"""


def test_later_signals_are_ignored_until_the_process_has_ended() -> None:
    reached = []
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for line in process.stdout:
            reached.append(line.decode().strip())
            # They are there before the byte is: if they are to end it, it does not come further.
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            process.stdin.write(b"\n")
    assert (reached, process.returncode) == (STAGES, 0)


def test_one_signal_wakes_a_loop_that_has_nothing_to_do() -> None:
    child = CHILD.replace('pause("running")', 'print("running", flush=True)')
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"running\n"
            process.send_signal(number)
            out, _ = process.communicate(b"\n" * len(STAGES), timeout=60)
        assert out.decode().splitlines() == STAGES[1:]
        assert process.returncode == 0
