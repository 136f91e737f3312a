"""Processes forked from a client's own: they neither wait for its session nor hold it."""

import contextlib
import os
import signal
import subprocess
import sys
import unittest

from rig import PATIENCE_S, DaemonCase, namespace, until
from terrace_kv import Client, NameTaken

# What a program does that has a client and forks.
PROGRAM = """
import os, signal, sys, time
from rig import namespace
from terrace_kv import Client

client = Client(sys.argv[1], client_id="forks", namespace=namespace())
"""


class ForksTest(DaemonCase):
    def program(self, more: str) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + more, self.daemon.socket],
            cwd=os.path.dirname(__file__),
            stdout=subprocess.PIPE,
            # gRPC tells whoever forks beside its threads that it does nothing about it.
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            # A group, to end with all that it forked.
            start_new_session=True,
        )
        assert program.stdout is not None
        self.addCleanup(program.stdout.close)
        self.addCleanup(program.wait, PATIENCE_S)
        self.addCleanup(self.end, program.pid)
        return program

    @staticmethod
    def end(group: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)

    def test_a_forked_process_ends_by_itself_and_leaves_the_session_alone(self):
        program = self.program(
            "child = os.fork()\n"
            "if child == 0: sys.exit(7)\n"
            "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
            "assert client.status().clients == 1 and client.connected\n"
            "child = os.fork()\n"
            "if child == 0: client.close(); os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "assert client.status().clients == 1 and client.connected\n"
        )
        self.assertEqual(program.wait(PATIENCE_S), 0)

    def test_a_client_that_died_is_over_while_what_it_forked_lives(self):
        program = self.program(
            "child = os.fork()\n"
            "if child == 0: time.sleep(60); os._exit(0)\n"
            "print(child, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        child = int(program.stdout.readline())
        program.wait(PATIENCE_S)
        until(self.is_free, "the name is free")
        os.kill(child, 0)

    def is_free(self) -> bool:
        try:
            Client(self.daemon.socket, client_id="forks", namespace=namespace()).close()
        except NameTaken:
            return False
        return True


if __name__ == "__main__":
    unittest.main()
