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

# Each call that would go to the daemon is refused at once; nothing reaches the parent's session.
USE_IN_CHILD = """
import traceback
from rig import chain
from terrace_kv import ClientClosed, HostPool, daemon_events

events = daemon_events(sys.argv[1], snapshot=True)

client_pool = HostPool.create(client.namespace, 8)
handle = client.register_pool(client_pool)
ended = client.store(chain(2), handle, [0, 1]).op
ended.result()
found = client.lookup(chain(2), request=7)
pending = client._connection.session().completions.expect(1 << 40)

def check():
    for call in (
        lambda: client.lookup(chain(2), request=7),
        lambda: client.store(chain(1, seed=5), handle, [3]),
        lambda: client.load(chain(2), handle, [4, 5]),
        lambda: client.end_request(7),
        lambda: client.release(found),
        lambda: client.register_pool(client_pool),
        lambda: client.unregister_pool(handle),
        lambda: client.watch(1),
        lambda: client.status(),
        lambda: client.welcome,
        lambda: client.wait_connected(1),
        lambda: client.reconnect(),
        lambda: pending.result(1),
        lambda: pending.add_done_callback(print),
        lambda: next(events),
    ):
        try:
            call()
        except ClientClosed as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError("it was carried out")
    assert not client.connected and client.epoch is None
    assert isinstance(client.away, ClientClosed)
    # Ends nothing of the parent's.
    events.close()
    # What had ended is known.
    assert ended.result(0).ok

child = os.fork()
if child == 0:
    try:
        check()
    except BaseException:
        print(traceback.format_exc(), flush=True)
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert next(events) is not None
assert client.status().leases == 1 and client.status().clients == 1
assert client.load(chain(2), handle, [4, 5]).result().ok
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

    def test_a_forked_process_uses_nothing_of_the_clients(self):
        program = self.program(USE_IN_CHILD)
        self.assertEqual(program.wait(PATIENCE_S), 0, program.stdout.read())

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
