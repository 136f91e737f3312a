"""The same with await: bytes, completions, errors, cancelled calls."""

import asyncio
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np

from rig import PATIENCE_S, Daemon, chain, content, namespace, until
from terrace_kv import (
    AsyncClient,
    DaemonGone,
    HostPool,
    Invalid,
    Precondition,
    Tier,
    TimedOut,
    daemon_status,
    hints,
)


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.space = namespace()
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        await asyncio.to_thread(self.daemon.start)
        self.client = await AsyncClient.connect(
            self.daemon.socket, client_id="aio", namespace=self.space, call_timeout_s=2.0
        )
        self.addAsyncCleanup(self.client.close)
        self.pool = HostPool.create(self.space, 64)
        self.addCleanup(self.pool.close)
        self.handle = await self.client.register_pool(self.pool)

    async def store(self, hashes, seed=0, **more):
        self.pool.view()[: len(hashes)] = content(self.space, len(hashes), seed)
        stored = await self.client.store(hashes, self.handle, range(len(hashes)), **more)
        return await stored.op

    async def test_blocks_come_back(self):
        hashes = chain(8)
        self.assertTrue((await self.store(hashes, session="agent", request=1)).ok)
        found = await self.client.lookup(hashes, request=1)
        self.assertEqual(list(found.tiers()), [Tier.DRAM] * 8)
        op = await self.client.load(hashes, self.handle, range(50, 58))
        self.assertTrue((await op).ok)
        self.assertIs(await op, op.result(0))
        np.testing.assert_array_equal(self.pool.view()[50:58], content(self.space, 8))
        await self.client.release(found)
        used = await self.client.end_request(1)
        self.assertEqual(used.read[Tier.DRAM], 8 * 16)
        (outcome,) = await self.client.hint(hints.SessionEnd("agent"))
        self.assertEqual(outcome.status.name, "ACCEPTED")
        answer = await self.client.hint_envelope(hints.envelope([hints.SessionEnd("x")], "m"))
        self.assertEqual(answer.outcomes[0].status.name, "MISSING")
        self.assertEqual((await self.client.inspect(hashes[0])).position, 0)
        self.assertEqual((await self.client.status()).blocks, 8)
        self.assertEqual((await self.client.sessions()).sessions_total, 0)
        await self.client.unregister_pool(self.handle)

    async def test_many_at_once(self):
        chains = [chain(2, seed) for seed in range(30)]
        for number in range(30):
            places = [2 * number, 2 * number + 1]
            self.pool.view()[places] = content(self.space, 2, number)

        async def one(number):
            slots = [2 * number, 2 * number + 1]
            stored = await self.client.store(chains[number], self.handle, slots, request=number)
            return (await stored.op).request_id

        self.assertEqual(await asyncio.gather(*map(one, range(30))), list(range(30)))
        found = await asyncio.gather(*(self.client.lookup(one) for one in chains))
        self.assertEqual({one.matched_blocks for one in found}, {2})

    async def test_errors_are_the_same(self):
        with self.assertRaises(Invalid):
            await self.client.lookup([b"short"])
        with self.assertRaises(Invalid):
            await self.client.store(chain(1), self.handle, [64])
        with self.assertRaises(Invalid):
            await AsyncClient.connect(
                self.daemon.socket, client_id="", namespace=self.space
            )  # fmt: skip

    async def test_a_pool_whose_registering_is_cancelled_is_taken_back(self):
        pool = HostPool.create(self.space, 4)
        self.addCleanup(pool.close)
        blocking = self.client._blocking
        taking_back = mock.patch.object(blocking, "unregister_pool", wraps=blocking.unregister_pool)
        with taking_back as take_back:
            self.daemon.freeze()
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(self.client.register_pool(pool), 0.3)
            self.daemon.thaw()
            await asyncio.to_thread(until, lambda: take_back.called, "it is taken back")
            await asyncio.to_thread(until, self.has_one_pool, "the daemon has it no more")
        self.assertEqual(self.client._connection._handles, [self.handle])

    def has_one_pool(self) -> bool:
        return daemon_status(self.daemon.socket).pools == 1

    async def test_the_loop_is_never_blocked(self):
        self.daemon.freeze()
        before = time.monotonic()
        calls = [asyncio.create_task(self.client.lookup(chain(1))) for _ in range(3)]
        ticks = 0
        while not all(call.done() for call in calls):
            await asyncio.sleep(0.01)
            ticks += 1
        self.assertGreater(ticks, 50)
        self.assertLess(time.monotonic() - before, 2.0 + 1.0)
        for call in calls:
            with self.assertRaises(TimedOut):
                call.result()
        self.daemon.thaw()

    async def test_a_call_that_is_given_up(self):
        self.daemon.freeze()
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.client.lookup(chain(1)), 0.05)
        self.daemon.thaw()
        self.assertTrue((await self.store(chain(2))).ok)
        # Waiting is given up, the operation is not.
        op = self.client._connection.session().completions.expect(1 << 40)
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(op, 0.05)
        self.assertFalse(op.done())

    async def test_a_daemon_that_dies_and_comes_back(self):
        op = self.client._connection.session().completions.expect(1 << 40)
        await asyncio.to_thread(self.daemon.kill)
        with self.assertRaises(DaemonGone):
            await asyncio.wait_for(op, PATIENCE_S)
        for _ in range(100):
            with self.assertRaises(DaemonGone):
                await self.client.lookup(chain(1))
        self.assertFalse(self.client.connected)
        self.assertIsInstance(self.client.away, DaemonGone)
        await asyncio.to_thread(self.daemon.start)
        self.assertTrue(await self.client.wait_connected(PATIENCE_S))
        epoch = self.client.epoch
        self.client.reconnect()
        self.assertTrue(await self.client.wait_connected(PATIENCE_S))
        self.assertGreater(self.client.epoch, epoch)
        self.assertTrue((await self.store(chain(3), seed=3)).ok)

    async def test_nothing_takes_a_thread_of_the_loops_executor(self):
        executor, over = ThreadPoolExecutor(1), threading.Event()
        self.addCleanup(executor.shutdown)
        self.addCleanup(over.set)
        asyncio.get_running_loop().set_default_executor(executor)
        # What the program itself has running there, for as long as it likes.
        executor.submit(over.wait)

        async def everything() -> None:
            client = await AsyncClient.connect(
                self.daemon.socket, client_id="busy", namespace=self.space
            )
            self.assertTrue(await client.wait_connected())
            with HostPool.create(self.space, 4) as pool:
                await client.unregister_pool(await client.register_pool(pool))
            with self.assertRaisesRegex(Precondition, "HBM"):
                await client.hbm()
            await client.close()
            self.assertFalse(await client.wait_connected())

        await asyncio.wait_for(everything(), PATIENCE_S)

    async def test_it_closes_with_its_block(self):
        async with await AsyncClient.connect(
            self.daemon.socket, client_id="short", namespace=self.space
        ) as client:
            self.assertEqual((await client.status()).clients, 2)
            self.assertEqual(client.welcome.protocol_version, 2)
        self.assertFalse(client.connected)


class AwayTest(unittest.IsolatedAsyncioTestCase):
    """A daemon that may come."""

    async def asyncSetUp(self) -> None:
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.client = await AsyncClient.connect(
            self.daemon.socket, client_id="early", namespace=namespace(), may_be_away=True
        )
        self.addAsyncCleanup(self.client.close)

    async def test_who_waits_no_longer_leaves_nothing_behind(self):
        before = threading.active_count()
        for _ in range(20):
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(self.client.wait_connected(PATIENCE_S), 0.01)
        for patience_s in (0.01, 0):
            self.assertFalse(await self.client.wait_connected(patience_s))
        # One of a test before this may have ended meanwhile.
        self.assertLessEqual(threading.active_count(), before)
        self.assertFalse(self.client._connection._awaited)

    async def test_whoever_waits_hears_of_the_daemon_and_of_the_close(self):
        waiting = [asyncio.create_task(self.client.wait_connected()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        await asyncio.to_thread(self.daemon.start)
        self.assertEqual(await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S), [True] * 2)
        self.assertTrue(await self.client.wait_connected(0))
        await asyncio.to_thread(self.daemon.kill)
        await asyncio.to_thread(until, lambda: not self.client.connected, "it knows")
        waiting = asyncio.create_task(self.client.wait_connected())
        await asyncio.sleep(0)
        await self.client.close()
        self.assertFalse(await asyncio.wait_for(waiting, PATIENCE_S))


if __name__ == "__main__":
    unittest.main()
