"""A real daemon in a temporary folder, and an engine for tests on numpy.

Talks to sockets in that folder only, and ends only the process that it started.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path
from typing import ClassVar

import numpy as np

from terrace_kv import Client, DaemonGone, HostPool, Namespace, PageLayout, daemon_status, hashing

# What a dying daemon makes clients say is no news here.
logging.getLogger("terrace_kv").setLevel(logging.ERROR)

BINARY = os.environ.get("TERRACE_BIN", "target/debug/terrace")
BLOCK_TOKENS = 16
PATIENCE_S = 20.0


class Daemon:
    """`terrace serve`, as small as it can be."""

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="terrace-py-"))
        self.socket = self.folder / "t.sock"
        self._settings = {
            "socket": str(self.socket),
            "state-dir": str(self.folder / "state"),
            # A chunk of 64 MiB holds blocks of one size; tests use a few sizes.
            "dram-capacity": "256MiB",
            "dram-staging": "64MiB",
            "nvme-enabled": "false",
            "object-url": "off",
            "log-level": "warn",
            # Sockets beside the daemon's own: FOLDER is where it lives.
            **{key: value.replace("FOLDER", str(self.folder)) for key, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = PATIENCE_S) -> Daemon:
        flags = [part for key, value in self._settings.items() for part in (f"--{key}", value)]
        log = self.folder.joinpath("log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [BINARY, "serve", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The daemon reads every TERRACE_ variable as a setting.
                env={k: v for k, v in os.environ.items() if not k.startswith("TERRACE_")},
            )
        until(self._answers, "the daemon answers", self.log, patience_s)
        return self

    def kill(self) -> None:
        """As a crash would: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """In order: SIGTERM."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Every thread of it stands still, and its sockets stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self._process.pid}/task")
        stats = [one / "stat" for one in threads.iterdir()]
        until(lambda: all(") T " in one.read_text() for one in stats), "it stands still")

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def log(self) -> str:
        return self.folder.joinpath("log").read_text(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_S)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the daemon ended by itself:\n{self.log()}")
        try:
            return daemon_status(self.socket, timeout_s=1.0).pid == self._process.pid
        except DaemonGone:
            return False


def until(holds, what: str, more=lambda: "", patience_s: float = PATIENCE_S) -> None:
    """Waits for something that must come true."""
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s} s: {what}\n{more()}")
        time.sleep(0.02)


def namespace(**changed) -> Namespace:
    fields = {"model": "test", "layers": 3, "planes": 2, "page_bytes": 4096, "dtype": "u8"}
    return Namespace(**{**fields, "block_tokens": BLOCK_TOKENS, **changed})


def chain(blocks: int, seed: int = 0, extra: hashing.ExtraKeys | None = None) -> list[bytes]:
    """The hashes of a chain of its own for each seed."""
    tokens = [(seed * 7919 + place) % 100_000 for place in range(blocks * BLOCK_TOKENS)]
    return hashing.block_hashes(tokens, BLOCK_TOKENS, extra)


def content(space: Namespace, blocks: int, seed: int = 0) -> np.ndarray:
    """What each block's pages hold: `[block, layer, plane, byte]`, every byte of the seed."""
    shape = (blocks, space.layers, space.planes, space.page_bytes)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Engine:
    """A client with a pool, that stores and loads whole chains and checks every byte."""

    def __init__(self, daemon: Daemon, name: str = "engine", order=PageLayout.paged, **changed):
        self.space = namespace(**changed)
        self.client = Client(daemon.socket, client_id=name, namespace=self.space)
        self.pool = HostPool.create(self.space, 64, order(self.space, 64))
        self.handle = self.client.register_pool(self.pool)

    def store(self, hashes: list[bytes], seed: int = 0, **more):
        """Stores a chain from its root on, out of the first slots; waits for its end."""
        slots = range(len(hashes))
        self.pool.view()[: len(hashes)] = content(self.space, len(hashes), seed)
        stored = self.client.store(hashes, self.handle, slots, **more)
        done = stored.op.result(PATIENCE_S)
        assert done.ok, done
        return stored

    def check(self, hashes: list[bytes], seed: int = 0) -> None:
        """Loads a chain into the last slots and compares every byte."""
        slots = list(range(64 - len(hashes), 64))
        self.pool.view()[slots] = 0
        done = self.client.load(hashes, self.handle, slots).result(PATIENCE_S)
        assert done.ok, done
        expected = content(self.space, len(hashes), seed)
        np.testing.assert_array_equal(self.pool.view()[slots], expected)

    def matched(self, hashes: list[bytes], **more) -> int:
        found = self.client.lookup(hashes, **more)
        self.client.release(found)
        return found.matched_blocks

    def close(self) -> None:
        self.client.close()
        self.pool.close()


class DaemonCase(unittest.TestCase):
    """One daemon for all tests of a class; each test names its own clients and chains."""

    settings: ClassVar[dict[str, str]] = {}
    daemon: Daemon

    @classmethod
    def setUpClass(cls) -> None:
        cls.daemon = Daemon(**cls.settings)
        cls.addClassCleanup(cls.daemon.close)
        cls.daemon.start()

    def engine(self, name: str | None = None, **changed) -> Engine:
        engine = Engine(self.daemon, name or self.id(), **changed)
        self.addCleanup(engine.close)
        return engine


class RestartCase(unittest.TestCase):
    """Daemons of each test's own, to be frozen and killed."""

    def daemon(self, **settings) -> Daemon:
        daemon = Daemon(**settings)
        self.addCleanup(daemon.close)
        return daemon

    def engine(self, daemon: Daemon, **changed) -> Engine:
        engine = Engine(daemon, "engine", **changed)
        self.addCleanup(engine.close)
        return engine
