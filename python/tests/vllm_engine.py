"""An engine whose scheduler is the test: the connector's two sides against a real daemon."""

import itertools
import logging
import time
import unittest
from types import SimpleNamespace as Bag

import numpy as np

from rig import BLOCK_TOKENS, PATIENCE_S, Daemon, content, namespace, until
from terrace_kv import HostPool
from terrace_kv.vllm.hints import RequestHints
from terrace_kv.vllm.lookups import Asker
from terrace_kv.vllm.scheduler import SchedulerSide, summary
from terrace_kv.vllm.settings import Settings
from terrace_kv.vllm.telling import Saying
from terrace_kv.vllm.worker import WorkerSide, open_client
from vllm_rig import Pool

logging.getLogger("terrace_kv.vllm").setLevel(logging.CRITICAL)

SLOTS = 64


class Engine:
    """An engine of one rank: both sides, and vLLM's part of the bookkeeping."""

    numbers = itertools.count()

    def __init__(self, socket, *, loads: bool = True, **settings) -> None:
        bounds = {"lookup_timeout_s": 1.0, "call_timeout_s": 0.5, "pause_s": 0.3}
        self.settings = Settings(**{"socket": str(socket), **bounds, **settings})
        self.space = namespace()
        self.pool = HostPool.create(self.space, SLOTS)
        name = f"engine-{next(self.numbers)}"
        self.worker = WorkerSide(
            open_client(self.settings, self.space, name, "rank-0"), self.pool, 0, self.settings
        )
        self.client = open_client(self.settings, self.space, name, "scheduler")
        self.asker = Asker(self.client, self.settings)
        self.side = SchedulerSide(
            self.asker, self.settings, block_tokens=BLOCK_TOKENS, blocks=SLOTS, ranks=1, loads=loads
        )  # fmt: skip
        self.blocks = self.side.holds.pool = Pool(SLOTS)
        self.longest_step_s = 0.0

    def request(self, hashes, said=None) -> Bag:
        tokens = len(hashes) * BLOCK_TOKENS
        request = Bag(
            request_id=f"r{next(self.numbers)}", block_hashes=hashes,
            num_tokens=tokens, num_prompt_tokens=tokens,
        )  # fmt: skip
        self.timed(self.side.arrived, request, said or RequestHints())
        return request

    def matched(self, request, computed: int = 0) -> int:
        """As vLLM's scheduler asks: again and again until there is an answer."""
        answers = []

        def answered() -> bool:
            answers.append(self.timed(self.side.matched, request, computed))
            return answers[-1] is not None

        until(answered, "the lookup is answered")
        return answers[-1]

    def load(self, request, tokens: int, slots) -> set[int]:
        """Loads the first `tokens` tokens; gives the slots that failed."""
        self.timed(self.side.allocated, request, slots, tokens)
        self.worker.begin(self.side.take_step())
        failed, finished = set(), set()

        def ended() -> bool:
            done, wrong = self.timed(self.worker.take_finished)
            finished.update(done)
            failed.update(wrong)
            self.hear()
            return request.request_id in finished

        until(ended, "the load ends")
        self.side.loaded(finished)
        return failed

    def compute(self, request, slots, seed: int = 0) -> None:
        """A step in which the whole request is computed."""
        self.pool.view()[list(slots)] = content(self.space, len(slots), seed)
        self.timed(self.side.computed, request.request_id, request.num_tokens, lambda _: slots)
        self.worker.begin(self.side.take_step())

    def finish(self, request, slots=()) -> dict:
        tracked = self.side.finished(request, len(slots) * BLOCK_TOKENS, slots)
        self.worker.begin(self.side.take_step())
        return summary(tracked, BLOCK_TOKENS)

    def hear(self) -> None:
        self.worker.take_finished()
        self.timed(self.side.heard, self.worker.take_report())

    def settle(self, patience_s: float = PATIENCE_S) -> None:
        """Until no block is held."""

        def settled() -> bool:
            self.hear()
            return not self.blocks.held()

        until(settled, "no block is held", patience_s=patience_s)

    def check(self, slots, seed: int = 0) -> None:
        expected = content(self.space, len(slots), seed)
        np.testing.assert_array_equal(self.pool.view()[list(slots)], expected)

    def unsaid(self) -> list[Saying]:
        """What has still to be told."""
        return self.asker._teller.waiting()

    def timed(self, call, *args):
        before = time.monotonic()
        try:
            return call(*args)
        finally:
            self.longest_step_s = max(self.longest_step_s, time.monotonic() - before)

    def close(self) -> None:
        self.worker.close()
        self.asker.close()
        self.client.close()
        self.pool.close()


class EngineCase(unittest.TestCase):
    """Tests that run such engines with their daemon."""

    daemon: Daemon

    def engine(self, **settings) -> Engine:
        engine = Engine(self.daemon.socket, **settings)
        self.addCleanup(engine.close)
        return engine
