"""The connector that plugs Terrace into vLLM: `TerraceConnector`, out of tree.

::

    --kv-transfer-config '{"kv_connector": "TerraceConnector",
        "kv_connector_module_path": "terrace_kv.vllm", "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute"}'

docs/engines.md says what it does and what it refuses. Only `connector` knows vLLM, and only that
and `memory` know torch, so that everything else is tested without either.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TerraceConnector"]


def __getattr__(name: str) -> Any:
    # Late, so that the parts that need no vLLM can be imported where there is none.
    if name == "TerraceConnector":
        from .connector import TerraceConnector

        return TerraceConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
