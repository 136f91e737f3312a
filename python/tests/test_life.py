"""Daemons that die, come back, hang or were never there; and requests that make no sense."""

import os
import socket
import threading
import time
import unittest
from unittest import mock

import numpy as np

from rig import PATIENCE_S, DaemonCase, Engine, RestartCase, chain, content, namespace, until
from terrace_kv import (
    Client,
    ClientClosed,
    DaemonGone,
    HostPool,
    Invalid,
    NameTaken,
    NotFound,
    PageLayout,
    SessionLost,
    TerraceError,
    Tier,
    TimedOut,
    VersionMismatch,
    _wire,
    daemon_status,
    hints,
)

# What an engine notices as no delay, in seconds; generous for a busy machine.
QUICK_S = 1.0


class RestartTest(RestartCase):
    def test_after_a_crash_the_client_is_back_and_so_are_blocks_on_nvme(self):
        daemon = self.daemon(
            **{"nvme-enabled": "true", "nvme-capacity": "64MiB", "nvme-engine": "blocking"},
            **{"dram-capacity": "0", "dram-staging": "64MiB"},
        ).start()
        engine = self.engine(daemon)
        hashes = chain(8, seed=1)
        engine.store(hashes, seed=1)
        self.assertEqual({*engine.client.lookup(hashes).tiers()}, {Tier.NVME})
        stale = engine.client.lookup(hashes)
        daemon.kill()
        self.check_away(engine, hashes)
        daemon.start()
        self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        # The pool was registered again: the same handle stores and loads, every byte the same.
        until(lambda: engine.matched(hashes) == 8, "the blocks are recovered", daemon.log)
        engine.check(hashes, seed=1)
        more = chain(4, seed=2)
        engine.store(more, seed=2)
        engine.check(more, seed=2)
        # A lease of before must not end one of now that has its number.
        held = engine.client.lookup(hashes)
        self.assertNotEqual(stale.epoch, held.epoch)
        engine.client.release(stale)
        # A lease stands at the end of what it holds.
        self.assertEqual(engine.client.inspect(hashes[-1]).leases, 1)

    def check_away(self, engine: Engine, hashes: list[bytes]) -> None:
        """Every call is refused, quickly, however often it is tried."""
        client, handle = engine.client, engine.handle
        calls = {
            "lookup": lambda: client.lookup(hashes),
            "store": lambda: client.store(hashes, handle, range(len(hashes))),
            "load": lambda: client.load(hashes, handle, range(len(hashes))),
            "hint": lambda: client.hint(hints.SessionStart("s")),
            "end_request": lambda: client.end_request(1),
            "sessions": client.sessions,
            "inspect": lambda: client.inspect(hashes[0]),
            "status": client.status,
        }
        for name, call in calls.items():
            before = time.monotonic()
            with self.subTest(name), self.assertRaises(DaemonGone):
                call()
            self.assertLess(time.monotonic() - before, QUICK_S, name)
        until(lambda: not client.connected, "the client knows")
        before = time.monotonic()
        for _ in range(1000):
            with self.assertRaises(DaemonGone):
                client.lookup(hashes)
        self.assertLess(time.monotonic() - before, QUICK_S)

    def test_again_and_again(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        for number in range(3):
            hashes = chain(3, seed=number)
            engine.store(hashes, seed=number)
            engine.check(hashes, seed=number)
            # In order, and by force.
            (daemon.stop if number % 2 else daemon.kill)()
            until(lambda: not engine.client.connected, "the client notices")
            daemon.start()
            self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        self.assertEqual(daemon_status(daemon.socket).pools, 1)

    def test_a_call_that_waits_ends_with_the_daemon(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        daemon.freeze()
        waiting = []

        def wait() -> None:
            try:
                engine.client.lookup(chain(2))
            except TerraceError as error:
                waiting.append(error)

        caller = threading.Thread(target=wait)
        caller.start()
        time.sleep(0.1)
        daemon.kill()
        caller.join(PATIENCE_S)
        self.assertIsInstance(waiting[0], DaemonGone)
        self.assertTrue(str(daemon.socket) in str(waiting[0]), waiting)

    def test_an_operation_under_way_ends_with_the_daemon(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        op = engine.client._connection.session().completions.expect(1 << 40)
        daemon.kill()
        with self.assertRaisesRegex(DaemonGone, "while the operation was under way"):
            op.result(PATIENCE_S)

    def test_a_daemon_that_comes_later(self):
        daemon = self.daemon()
        space = namespace()
        with self.assertRaisesRegex(DaemonGone, "no such socket"):
            Client(daemon.socket, client_id="early", namespace=space)
        with self.assertLogs("terrace_kv", "WARNING") as said:
            early = Client(daemon.socket, client_id="early", namespace=space, may_be_away=True)
        self.assertRegex(said.output[0], f"at {daemon.socket}, trying on: .* no such socket")
        with early as client, HostPool.create(space, 4) as pool:
            handle = client.register_pool(pool)
            with self.assertRaises(DaemonGone):
                client.lookup(chain(2))
            self.assertFalse(client.wait_connected(0.05))
            daemon.start()
            self.assertTrue(client.wait_connected(PATIENCE_S))
            pool.view()[:2] = content(space, 2)
            self.assertTrue(client.store(chain(2), handle, [0, 1]).op.result().ok)
            self.assertTrue(client.load(chain(2), handle, [2, 3]).result().ok)
            np.testing.assert_array_equal(pool.view()[2:], pool.view()[:2])

    def test_a_daemon_that_comes_back_as_another_version(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        with mock.patch.object(_wire, "PROTOCOL_VERSION", 99):
            daemon.kill()
            daemon.start()
            until(lambda: self.says(engine, VersionMismatch), "it says what to do")
        self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        engine.store(chain(2))

    @staticmethod
    def says(engine: Engine, kind: type[TerraceError]) -> bool:
        try:
            engine.client.lookup(chain(1))
        except TerraceError as error:
            return isinstance(error, kind)
        return False

    def test_a_daemon_that_hangs(self):
        daemon = self.daemon().start()
        with Client(
            daemon.socket, client_id="patient", namespace=namespace(), call_timeout_s=0.3
        ) as client, HostPool.create(namespace(), 4) as pool:  # fmt: skip
            handle = client.register_pool(pool)
            daemon.freeze()
            for call in (
                lambda: client.lookup(chain(2)),
                lambda: client.load(chain(2), handle, [0, 1]),
            ):
                before = time.monotonic()
                with self.assertRaises(TimedOut):
                    call()
                self.assertLess(time.monotonic() - before, 0.3 + QUICK_S)
            daemon.thaw()
            until(lambda: self.answers(client), "it answers again")

    def test_a_start_beside_a_daemon_that_hangs(self):
        daemon = self.daemon().start()
        daemon.freeze()
        with self.assertRaises(TimedOut):
            Client(daemon.socket, client_id="late", namespace=namespace(), call_timeout_s=0.3)
        with Client(
            daemon.socket, client_id="late", namespace=namespace(), call_timeout_s=0.3,
            may_be_away=True,
        ) as client:  # fmt: skip
            self.assertIsInstance(client.away, TimedOut)
            self.assertIsNone(client.epoch)
            with self.assertRaises(DaemonGone):
                client.lookup(chain(1))
            daemon.thaw()
            self.assertTrue(client.wait_connected(PATIENCE_S))
            self.assertIsNone(client.away)

    def test_a_session_that_is_given_up(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        client, hashes = engine.client, chain(2)
        engine.store(hashes)
        found = client.lookup(hashes)
        former = client.epoch
        client.reconnect()
        until(lambda: client.epoch is not None and client.epoch > former, "it is back")
        # What hung on the session is gone; the pool is there again.
        self.assertEqual(client.inspect(hashes[-1]).leases, 0)
        client.release(found)
        engine.check(hashes)

    @staticmethod
    def answers(client: Client) -> bool:
        try:
            return client.lookup(chain(2)).matched_blocks == 0
        except TimedOut:
            return False

    def test_a_session_that_the_daemon_dropped(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        # The descriptor connection is the session's life.
        former = engine.client._connection.session()
        op = former.completions.expect(1 << 40)
        former._attachment._line.shutdown(socket.SHUT_RDWR)
        # The daemon lives: its copies may too.
        with self.assertRaisesRegex(SessionLost, "while the operation was under way"):
            op.result(PATIENCE_S)
        until(lambda: not self.holds(engine, former.epoch), "the session is over")
        self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        engine.store(chain(2))
        engine.check(chain(2))

    @staticmethod
    def holds(engine: Engine, epoch: int) -> bool:
        try:
            return engine.client.lookup(chain(1)).epoch == epoch
        except (SessionLost, DaemonGone):
            return False


class BadInputTest(DaemonCase):
    def test_stores_and_loads_that_make_no_sense(self):
        engine = self.engine()
        client, handle, hashes = engine.client, engine.handle, chain(2)
        for slots in ([0], [0, 1, 2], [0, 0], [0, 64], [0, -1], [0, 1 << 32], ["a", "b"], [0, 1.5]):
            for call in (client.store, client.load):
                with self.subTest(slots=slots), self.assertRaises(Invalid):
                    call(hashes, handle, slots)
        for wrong in ([b"short"], [hashes[0][:31], hashes[1] + b"x"], b"x" * 33, b"", []):
            for call in (client.store, client.load):
                with self.subTest(hashes=wrong), self.assertRaises(Invalid):
                    call(wrong, handle, [0])
            with self.subTest(hashes=wrong), self.assertRaises(Invalid):
                client.lookup(wrong)
        with self.assertRaises(Invalid):
            client.store(hashes, handle, [0, 1], parent=b"short")
        with self.assertRaises(Invalid):
            client.inspect(b"short")
        with self.assertRaises(Invalid):
            client.lookup(hashes, session="s" * 129)
        with self.assertRaises(Invalid):
            client.lookup(hashes, request=-1)
        with self.assertRaises(NotFound):
            client.inspect(b"?" * 32)
        # And after all that it serves on.
        engine.store(hashes)
        engine.check(hashes)

    def test_more_than_one_call_takes(self):
        engine = self.engine()
        with self.assertRaisesRegex(Invalid, "65536"):
            engine.client.lookup(b"x" * 32 * 65_537)
        with self.assertRaises(Invalid):
            engine.client.lookup(b"x" * (9 << 20))
        self.assertEqual(engine.matched(chain(1)), 0)

    def test_pools_that_make_no_sense(self):
        engine = self.engine()
        space = engine.space
        packed = vars(PageLayout.paged(space, 4))
        overlapping = PageLayout(**{**packed, "slot_stride_bytes": space.page_bytes - 1})
        with HostPool.create(space, 4, overlapping) as pool:
            with self.assertRaisesRegex(Invalid, "overlap"):
                engine.client.register_pool(pool)
        with HostPool.create(space, 4) as pool, self.assertRaisesRegex(Invalid, "shard"):
            engine.client.register_pool(pool, shard=1)
        gone = HostPool.create(space, 4)
        gone.close()
        with self.assertRaisesRegex(Invalid, "closed"):
            engine.client.register_pool(gone)
        fd = os.memfd_create("unsealed")
        os.ftruncate(fd, 1 << 20)
        with HostPool(space, PageLayout.paged(space, 4), fd) as pool:
            os.close(fd)
            with self.assertRaisesRegex(Invalid, "seal"):
                engine.client.register_pool(pool)
        self.assertEqual(engine.matched(chain(1)), 0)

    def test_another_clients_pool(self):
        engine, other = self.engine("mine"), self.engine("theirs")
        with self.assertRaises(NotFound):
            engine.client.store(chain(1), other.handle, [0])

    def test_namespaces_that_do_not_hold(self):
        for changed in ({"block_tokens": 0}, {"hash_bytes": 65}, {"model": ""}, {"layers": -1},
                        {"page_bytes": 64 << 20}, {"model": 7}):  # fmt: skip
            with self.subTest(changed), self.assertRaises(Invalid):
                Client(self.daemon.socket, client_id="x", namespace=namespace(**changed))
        for name in ("", "x" * 257):
            with self.assertRaises(Invalid):
                Client(self.daemon.socket, client_id=name, namespace=namespace())

    def test_a_name_that_is_taken(self):
        with Client(self.daemon.socket, client_id="one", namespace=namespace()):
            with self.assertRaises(NameTaken):
                Client(self.daemon.socket, client_id="one", namespace=namespace())

    def test_a_daemon_of_another_version(self):
        with mock.patch.object(_wire, "PROTOCOL_VERSION", 99):
            with self.assertRaisesRegex(VersionMismatch, "upgrade the older"):
                Client(self.daemon.socket, client_id="new", namespace=namespace())

    def test_a_closed_client(self):
        engine = self.engine()
        engine.client.close()
        engine.client.close()
        for call in (
            lambda: engine.client.lookup(chain(1)),
            lambda: engine.client.register_pool(engine.pool),
            lambda: engine.client.welcome,
        ):
            with self.assertRaises(ClientClosed):
                call()
        self.assertFalse(engine.client.connected)
        self.assertFalse(engine.client.wait_connected(5))

    def test_what_was_under_way_ends_with_the_client(self):
        engine = self.engine()
        op = engine.client._connection.session().completions.expect(1 << 40)
        engine.client.close()
        with self.assertRaises(ClientClosed):
            op.result(0)

    def test_a_daemon_whose_path_is_no_uri(self):
        for name in ("a#b", "a?b", "a%20b", "a b", "ä"):
            beside = self.daemon.folder / name
            beside.mkdir()
            for twin in ("", ".fd"):
                (beside / f"t.sock{twin}").symlink_to(f"{self.daemon.socket}{twin}")
            with self.subTest(name), Client(
                beside / "t.sock", client_id=name, namespace=namespace()
            ) as client:  # fmt: skip
                self.assertEqual(client.lookup(chain(1)).matched_blocks, 0)

    def test_a_relative_path_is_that_of_the_start(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.daemon.folder)
        with Client("t.sock", client_id="relative", namespace=namespace()) as client:
            os.chdir("/")
            client.reconnect()
            self.assertTrue(client.wait_connected(PATIENCE_S))
        # The kernel takes no path of that length, but its end.
        folder = self.daemon.folder / ("x" * 100)
        folder.mkdir()
        (folder / "t.sock").symlink_to(self.daemon.socket)
        os.chdir(folder)
        self.assertEqual(daemon_status("t.sock").pid, daemon_status(self.daemon.socket).pid)

    def test_no_daemon_at_all(self):
        with self.assertRaisesRegex(DaemonGone, "terrace serve"):
            daemon_status(self.daemon.folder / "other.sock")


if __name__ == "__main__":
    unittest.main()
