"""The example does what its own text says."""

import subprocess
import sys
import unittest
from pathlib import Path

from rig import PATIENCE_S, DaemonCase

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "numpy_engine.py"


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


if __name__ == "__main__":
    unittest.main()
