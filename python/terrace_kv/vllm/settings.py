"""What `kv_connector_extra_config` may say, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..places import default_socket
from .wishes import is_whole

PREFIX = "kv_connector_extra_config"


@dataclass(frozen=True)
class Settings:
    """How the connector behaves. Every field is a key of `kv_connector_extra_config`."""

    # The daemon's socket.
    socket: str
    # Separates tenants that must not share blocks.
    tenant_salt: str = ""
    # Names the model where vLLM's name is a path that differs between machines.
    model: str = ""
    # Names the weights where the model's name and revision do not: after a fine-tune in place.
    weights: str = ""
    # How long a request may wait for its lookup before it is served without.
    lookup_timeout_s: float = 0.5
    # How long a load may wait for its turn, and then take, before its blocks are computed instead.
    load_timeout_s: float = 10.0
    # How long one call may take; a daemon that takes longer is left alone for `pause_s`.
    call_timeout_s: float = 2.0
    pause_s: float = 5.0
    # How long a lookup may ask the shared object store; 0: it does not.
    ask_shared_ms: int = 0
    # How fast this engine computes KV; plans compare loading with it. None: everything is loaded.
    prefill_tokens_per_s: int | None = None
    # Blocks that stores may hold at once, in hundredths of the KV cache.
    store_percent: int = 25

    @classmethod
    def read(cls, given: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
        """Raises `ValueError` that names the key, the value and what is allowed."""
        known = {one.name: one for one in fields(cls)}
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ValueError(
                f"{PREFIX}.{unknown[0]} is no setting: there are {', '.join(sorted(known))}"
            )
        if "socket" not in given:
            given = {**given, "socket": default_socket(environment)}
        settings = cls(**given)
        settings._check()
        return settings

    def _check(self) -> None:
        for name in ("socket", "tenant_salt", "model", "weights"):
            if not isinstance(getattr(self, name), str):
                raise _wrong(name, getattr(self, name), "text")
        for name in ("lookup_timeout_s", "load_timeout_s", "call_timeout_s", "pause_s"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value <= 3600:
                raise _wrong(name, value, "seconds, more than 0 and at most 3600")
        if not is_whole(self.ask_shared_ms) or not 0 <= self.ask_shared_ms <= 8_000:
            raise _wrong("ask_shared_ms", self.ask_shared_ms, "0 to 8000")
        rate = self.prefill_tokens_per_s
        if rate is not None and not (is_whole(rate) and rate > 0):
            raise _wrong("prefill_tokens_per_s", rate, "at least 1; leave it out if not known")
        if not is_whole(self.store_percent) or not 1 <= self.store_percent <= 50:
            raise _wrong("store_percent", self.store_percent, "1 to 50")


def _wrong(name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{PREFIX}.{name} is {value!r}: it must be {allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
