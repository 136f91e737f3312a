"""The example does what its own text says, and so does a sample of the docs."""

import re
import subprocess
import sys
import threading
import unittest
from pathlib import Path
from types import SimpleNamespace

import terrace_kv
from rig import PATIENCE_S, DaemonCase, chain, until
from terrace_kv import daemon_events

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "numpy_engine.py"

# As many may follow a daemon.
FOLLOWERS_MAX = 16


class ExampleTest(DaemonCase):
    def run_it(self) -> str:
        command = [sys.executable, str(EXAMPLE), "--socket", str(self.daemon.socket)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_it_finds_what_it_stored(self):
        first = self.run_it()
        self.assertIn("request 1: 20 blocks, none stored yet", first)
        self.assertIn("request 2: 25 blocks, 20 from dram", first)
        self.assertIn("20 loaded, 5 computed, every byte as expected", first)
        self.assertIn("hint 1: accepted, 4", first)
        self.assertIn("request 1: 20 blocks, 20 from dram", self.run_it())


class FollowingTest(DaemonCase):
    """The loop that docs/python.md has for those who follow a daemon."""

    def setUp(self) -> None:
        samples = re.findall("```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
        (self.sample,) = [one for one in samples if "residents.apply" in one]
        self.pauses, self.over = 0, threading.Event()
        self.addCleanup(self.over.set)

    def pause(self, _: float) -> None:
        self.pauses += 1
        if self.over.wait(0.02):
            raise SystemExit

    def test_it_goes_on_when_the_daemon_is_busy(self):
        engine = self.engine()
        engine.store(chain(2))
        others = [daemon_events(self.daemon.socket, snapshot=True) for _ in range(FOLLOWERS_MAX)]
        for other in others:
            self.addCleanup(other.close)
            next(other)
        scope = {**vars(terrace_kv), "socket": self.daemon.socket}
        scope["time"] = SimpleNamespace(sleep=self.pause)
        threading.Thread(target=exec, args=(self.sample, scope), daemon=True).start()
        until(lambda: self.pauses >= 2, "it is told that the daemon is busy")
        others.pop().close()
        until(lambda: len(scope["residents"].served) == 2, "it knows what is here")


if __name__ == "__main__":
    unittest.main()
