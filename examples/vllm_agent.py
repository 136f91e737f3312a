#!/usr/bin/env python3
"""A lead agent with tool calls and a sub-agent, under vLLM with the Terrace connector.

    scripts/test-vllm plain                  # once: puts vLLM's CPU build into target/vllm/venv
    terrace serve &                  # or wherever a daemon runs already, and --socket then
    target/vllm/venv/bin/python examples/vllm_agent.py

The model is a tiny Llama with made-up weights, so what the agents say makes no sense; what is
cached does. After each turn vLLM's own cache is emptied, as other requests would do, so that every
cached token comes from the daemon. Run it twice: the second time the first turn is cached as well,
while the daemon lives (or has an NVMe tier).
"""

import argparse
import json
import os
import sys
import tempfile
import time

# The engine runs in this process, so that its cache is emptied when the stores have ended.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from vllm import LLM, SamplingParams
from vllm.config import KVTransferConfig

from terrace_kv import default_socket, hints

BLOCK_TOKENS = 32
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024,
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "torch_dtype": "float32",
}  # fmt: skip

# Tokens of the parts of a prompt, as a tokenizer would give them.
TOOLS = [(place * 7) % 990 + 3 for place in range(320)]
SYSTEM = [(place * 11) % 990 + 3 for place in range(480)]
TASK = [(place * 13) % 990 + 3 for place in range(200)]


def engine(socket: str) -> LLM:
    """vLLM with the connector."""
    folder = tempfile.mkdtemp(prefix="vllm-agent-")
    with open(f"{folder}/config.json", "w") as file:
        json.dump(MODEL, file)
    return LLM(
        model=folder, load_format="dummy", skip_tokenizer_init=True, block_size=BLOCK_TOKENS,
        dtype="float32", enforce_eager=True, max_model_len=8192, kv_cache_memory_bytes=64 << 20,
        kv_transfer_config=KVTransferConfig(
            kv_connector="TerraceConnector", kv_connector_module_path="terrace_kv.vllm",
            kv_role="kv_both", kv_load_failure_policy="recompute",
            # The folder is another one each time: the weights are named here.
            kv_connector_extra_config={"socket": socket, "model": "tiny-llama"},
        ),
    )  # fmt: skip


def turn(llm: LLM, who: str, prompt: list[int], said: dict) -> list[int]:
    """One request; says how much of it was cached, and where."""
    sampling = SamplingParams(
        temperature=0, max_tokens=48, detokenize=False, ignore_eos=True,
        extra_args={"kv_transfer_params": said},
    )  # fmt: skip
    began = time.monotonic()
    (out,) = llm.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)
    tiers = out.kv_transfer_params["terrace"]["tiers"]
    where = ", ".join(f"{tokens} from {tier}" for tier, tokens in tiers.items())
    took_ms = (time.monotonic() - began) * 1000
    print(
        f"{who:24} {len(prompt):5} tokens, {out.num_cached_tokens:5} cached"
        f" ({where or 'none'}), {took_ms:.0f} ms"
    )
    empty(llm)
    return list(out.outputs[0].token_ids)


def empty(llm: LLM) -> None:
    """Empties vLLM's own cache; blocks that are being stored are waited for."""
    core = llm.llm_engine.engine_core.engine_core
    deadline = time.monotonic() + 60
    while not llm.reset_prefix_cache():
        if time.monotonic() > deadline:
            sys.exit("blocks are being stored for a minute: does the daemon answer? terrace status")
        core.step_fn()
        time.sleep(0.01)


def lead(**hinted: object) -> dict:
    """What every request of the lead agent says."""
    return {
        "agent_context": {"session_id": "lead"},
        # Tools and system prompt stay for an hour, the talk for five minutes.
        "cache_control": [
            {"type": "ephemeral", "ttl": "1h", "end": len(TOOLS) + len(SYSTEM)},
            {"type": "ephemeral", "ttl": "5m"},
        ],
        "terrace": {
            "directives": [
                {"start": 0, "end": len(TOOLS), "kind": "tools"},
                {"start": len(TOOLS), "end": len(TOOLS) + len(SYSTEM), "kind": "system"},
            ]
        },
        **hinted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", help="the daemon's socket; its usual one if not given")
    llm = engine(parser.parse_args().socket or default_socket())

    talk = TOOLS + SYSTEM + TASK
    talk += turn(llm, "lead asks for a tool", talk, lead())

    # The tool ran for a while; the lead goes on, and will be back after the sub-agent.
    talk += [(place * 17) % 990 + 3 for place in range(150)]
    back = {"priority": 20, "speculative_prefill": True}
    talk += turn(llm, "lead, with its result", talk, lead(agent_hints=back))

    # A sub-agent shares tools and system prompt. To the lead it is a tool that runs.
    actions = [hints.ToolStart("lead", expected_ms=3000)]
    sub = {
        "agent_context": {"session_id": "lead/sub", "parent_session_id": "lead"},
        "kv_hints": hints.envelope(actions, "sub-agent-starts"),
    }
    errand = TOOLS + SYSTEM + [(place * 19) % 990 + 3 for place in range(90)]
    report = turn(llm, "sub-agent", errand, sub)
    last = {**sub, "agent_context": {**sub["agent_context"], "session_final": True}}
    last["kv_hints"] = hints.envelope([hints.ToolReturn("lead")], "sub-agent-ends")
    report = turn(llm, "sub-agent, its last turn", errand + report, last)

    talk += report
    turn(llm, "lead, with the report", talk, lead())


if __name__ == "__main__":
    main()
