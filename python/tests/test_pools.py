"""Pools of sessions that end: registered again, refused, or taken back."""

import threading
import traceback
import unittest
from unittest import mock

from rig import PATIENCE_S, RestartCase, chain, namespace, until
from terrace_kv import (
    Client,
    ClientClosed,
    HostPool,
    Invalid,
    NoDaemon,
    NotFound,
    SessionLost,
    TimedOut,
    calls,
    daemon_status,
    session,
)


class PoolsTest(RestartCase):
    def test_a_pool_that_the_next_daemon_refuses(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        engine.pool.close()
        daemon.kill()
        daemon.start()
        self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        callers = set()
        for _ in range(100):
            try:
                engine.client.store(chain(1), engine.handle, [0])
            except Invalid as error:
                # What the error keeps alive, with all that these hold.
                callers.add(len([*traceback.walk_tb(error.__traceback__)]))
        self.assertEqual(len(callers), 1)

    def test_pools_come_and_go_while_it_is_away(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        daemon.kill()
        until(lambda: isinstance(engine.client.away, NoDaemon), "the client knows that it is dead")
        engine.client.unregister_pool(engine.handle)
        engine.handle = engine.client.register_pool(engine.pool)
        daemon.start()
        self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        engine.store(chain(2))
        self.assertEqual(daemon_status(daemon.socket).pools, 1)

    def test_a_pool_that_takes_longer_than_a_call_may(self):
        daemon = self.daemon().start()
        with Client(
            daemon.socket, client_id="patient", namespace=namespace(), call_timeout_s=0.3
        ) as client, HostPool.create(namespace(), 4) as pool:  # fmt: skip
            channel = client._connection.session().channel
            ask = channel.call

            def late(*asked):
                daemon.freeze()
                threading.Timer(1.0, daemon.thaw).start()
                return ask(*asked)

            epoch = client.epoch
            with mock.patch.object(channel, "call", late):
                handle = client.register_pool(pool)
            self.assertTrue(client.store(chain(2), handle, [0, 1]).op.result(PATIENCE_S).ok)
            with mock.patch.object(channel, "call", late):
                client.unregister_pool(handle)
            self.assertEqual(client.epoch, epoch)
            self.assertEqual(client.status().pools, 0)
            with self.assertRaisesRegex(NotFound, "not registered with this client"):
                client.unregister_pool(handle)

    def test_a_pool_that_was_taken_back_unheard(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        unheard = calls.unregister(engine.client._connection.session(), engine.handle)
        unheard.session.channel.call(unheard.method, unheard.request, PATIENCE_S)
        engine.client.unregister_pool(engine.handle)
        with self.assertRaises(NotFound):
            engine.client.unregister_pool(engine.handle)

    def test_a_daemon_that_hangs_after_hello(self):
        pool = HostPool.create(namespace(), 4)
        self.addCleanup(pool.close)
        for may_be_away in (False, True):
            daemon = self.daemon().start()
            client = Client(
                daemon.socket, client_id="late", namespace=namespace(), call_timeout_s=0.3,
                may_be_away=may_be_away,
            )  # fmt: skip
            self.addCleanup(client.close)
            line = client._connection.session()._attachment
            daemon.freeze()
            # As if it had taken the pool's descriptor before.
            with mock.patch.object(line, "send_memory", return_value=1), mock.patch.object(
                session, "POOL_TIMEOUT_S", 0.3
            ):  # fmt: skip
                if not may_be_away:
                    self.assertRaises(TimedOut, client.register_pool, pool)
                    continue
                handle = client.register_pool(pool)
            daemon.thaw()
            self.assertTrue(client.wait_connected(PATIENCE_S))
            self.assertTrue(client.store(chain(2), handle, [0, 1]).op.result(PATIENCE_S).ok)

    def test_a_pool_that_a_daemon_that_hangs_still_has(self):
        daemon = self.daemon().start()
        with Client(
            daemon.socket, client_id="engine", namespace=namespace(), call_timeout_s=0.5
        ) as client, HostPool.create(namespace(), 4) as pool:  # fmt: skip
            handle = client.register_pool(pool)
            daemon.freeze()
            client.reconnect()
            until(lambda: isinstance(client.away, TimedOut), "it does not come back")
            with self.assertRaises(SessionLost):
                client.unregister_pool(handle)
            daemon.thaw()
            self.assertTrue(client.wait_connected(PATIENCE_S))
            # Its session is over now, and a later one is there.
            client.unregister_pool(client.register_pool(pool))
            self.assertEqual(daemon_status(daemon.socket).pools, 0)

    def test_a_session_that_ends_while_a_pool_is_taken_back(self):
        cases = {
            "closed": (Client.close, ClientClosed),
            "given up": (Client.reconnect, SessionLost),
        }
        for name, (ends, kind) in cases.items():
            daemon = self.daemon().start()
            with self.subTest(name), Client(
                daemon.socket, client_id="engine", namespace=namespace(), call_timeout_s=1.0
            ) as client, HostPool.create(namespace(), 4) as pool:  # fmt: skip
                handle = client.register_pool(pool)
                daemon.freeze()
                threading.Timer(0.2, ends, [client]).start()
                with self.assertRaises(kind):
                    client.unregister_pool(handle)
                daemon.thaw()

    def test_a_pool_is_let_go_with_its_session(self):
        daemon = self.daemon().start()
        engine = self.engine(daemon)
        for ends in (engine.client.reconnect, daemon.kill):
            ends()
            engine.client.unregister_pool(engine.handle)
            if ends == daemon.kill:
                self.assertIsInstance(engine.client.away, NoDaemon)
                daemon.start()
            self.assertTrue(engine.client.wait_connected(PATIENCE_S))
            self.assertEqual(daemon_status(daemon.socket).pools, 0)
            engine.handle = engine.client.register_pool(engine.pool)


if __name__ == "__main__":
    unittest.main()
