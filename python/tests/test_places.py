"""The socket that is looked at when nobody names one is the daemon's own."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

from rig import BINARY, PATIENCE_S
from terrace_kv import Invalid, default_socket
from terrace_kv.vllm.settings import Settings


class PlacesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="terrace-py-")
        self.addCleanup(folder.cleanup)
        self.home = folder.name
        os.mkdir(f"{self.home}/run")

    def says(self, environment: dict[str, str]) -> str:
        """What the daemon's own binary says of a socket that nobody listens at."""
        done = subprocess.run(
            [os.path.abspath(BINARY), "status"],
            cwd=self.home, env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        found = re.search(r" socket (/.*)", done.stderr)
        return found[1] if found else done.stderr

    def test_it_is_where_the_daemon_listens(self):
        home = {"HOME": self.home}
        run, state = f"{self.home}/run", f"{self.home}/.local/state/terrace"
        for more, place in (
            # As in a container.
            ({}, f"{state}/terrace.sock"),
            ({"XDG_RUNTIME_DIR": run}, f"{run}/terrace.sock"),
            ({"XDG_RUNTIME_DIR": f"{self.home}/gone"}, f"{state}/terrace.sock"),
            ({"XDG_RUNTIME_DIR": "run"}, f"{state}/terrace.sock"),
            ({"XDG_STATE_HOME": f"{self.home}/s"}, f"{self.home}/s/terrace/terrace.sock"),
            ({"XDG_STATE_HOME": "s"}, f"{state}/terrace.sock"),
            ({"TERRACE_STATE_DIR": f"{self.home}/s"}, f"{self.home}/s/terrace.sock"),
            ({"TERRACE_STATE_DIR": "~/s", "XDG_RUNTIME_DIR": run}, f"{run}/terrace.sock"),
            ({"TERRACE_SOCKET": f"{self.home}/t", "XDG_RUNTIME_DIR": run}, f"{self.home}/t"),
            ({"TERRACE_SOCKET": "~/t"}, f"{self.home}/t"),
            ({"TERRACE_SOCKET": ""}, f"{state}/terrace.sock"),
        ):
            with self.subTest(more):
                environment = {**home, **more}
                self.assertEqual(self.says(environment), place)
                self.assertEqual(default_socket(environment), place)
                self.assertEqual(Settings.read({}, environment).socket, place)

    def test_where_the_daemon_refuses_it_says_what_to_name(self):
        for environment, says in (
            ({}, "none of TERRACE_SOCKET, .* and HOME names it"),
            ({"HOME": "h"}, "say where it is"),
            ({"HOME": self.home, "TERRACE_SOCKET": "t"}, "TERRACE_SOCKET is 't': start the path"),
        ):
            with self.subTest(environment):
                self.assertNotIn("is `terrace serve` running", self.says(environment))
                with self.assertRaisesRegex(Invalid, says):
                    default_socket(environment)
        # Who names it needs none of that.
        self.assertEqual(Settings.read({"socket": "/t"}, {}).socket, "/t")

    def test_without_an_argument_it_is_this_process_own(self):
        self.assertEqual(default_socket(), default_socket(dict(os.environ)))
        self.assertTrue(Path(default_socket()).is_absolute())


if __name__ == "__main__":
    unittest.main()
