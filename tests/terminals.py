"""Programs on a terminal of their own, whose screen is drawn as a terminal draws it."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pyte

from procs import PATIENCE


class Terminal:
    """`cmbagent` on a terminal: what it wrote, and what is to be seen of it."""

    def __init__(self, *arguments, columns=100, rows=30, **environment):
        self.written = b""
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
        self._stream = pyte.ByteStream(self.screen)
        settings = {
            "TERM": "xterm-256color",
            "CI": "",
            "PYTEST_CURRENT_TEST": "",
            "PYTHONIOENCODING": "utf-8",
        }
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            command = [sys.executable, "-m", "cmbagent", *map(str, arguments)]
            # The size is the terminal's own.
            inherited = {
                name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
            }
            os.execve(sys.executable, command, {**inherited, **settings, **environment})
        self.resize(columns, rows)

    def resize(self, columns, rows=30):
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def read(self, seconds=0.05):
        """Take what has been written since; whether the program still may write."""
        while select.select([self._fd], [], [], seconds)[0]:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.written += data
            self._stream.feed(data)
        return True

    @property
    def lines(self):
        """What is on the screen."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self):
        """What has scrolled by, and what is on the screen."""
        past = ("".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top)
        return "\n".join([*(line.rstrip() for line in past), *self.lines]).rstrip()

    def until(self, ask):
        """Read until `ask` of the text is true."""
        give_up = time.monotonic() + PATIENCE
        while not ask(self.text):
            assert time.monotonic() < give_up, self.text
            assert self.read() or ask(self.text), self.text
        return self.text

    def send(self, text):
        os.write(self._fd, text.encode())

    def end(self):
        """The exit status, once it has ended."""
        give_up = time.monotonic() + PATIENCE * 3
        while self.read():
            assert time.monotonic() < give_up, self.text
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def hang_up(self):
        """Close the terminal, as a lost connection does; gives how the program ended."""
        os.close(self._fd)
        self._fd = None
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def close(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._fd is not None:
            os.close(self._fd)
