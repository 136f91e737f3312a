"""Where the daemon's socket lies when nobody says: the daemon's own rule (`src/config/places.rs`).

Looks at the environment only. Reads no config file and touches no socket.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import arguments
from .errors import Invalid


def default_socket(environment: Mapping[str, str] = os.environ) -> str:
    """Where a daemon listens that runs with this environment and no other setting:
    `$TERRACE_SOCKET`, else `terrace.sock` in `$XDG_RUNTIME_DIR`, else, as in most containers, in
    its state folder.

    Raises `Invalid` where the environment names none of these.
    """
    arguments.one_of("environment", environment, Mapping, "what os.environ has")
    named = _given("TERRACE_SOCKET", environment)
    if named is not None:
        return str(named)
    runtime = _folder("XDG_RUNTIME_DIR", environment)
    folder = runtime if runtime is not None and runtime.is_dir() else _state_dir(environment)
    return str(folder / "terrace.sock")


def _state_dir(environment: Mapping[str, str]) -> Path:
    """`$TERRACE_STATE_DIR`, else `terrace` in `$XDG_STATE_HOME` or in `~/.local/state`."""
    named = _given("TERRACE_STATE_DIR", environment)
    if named is not None:
        return named
    folder, home = _folder("XDG_STATE_HOME", environment), _folder("HOME", environment)
    if folder is None and home is not None:
        folder = home / ".local" / "state"
    if folder is None:
        raise Invalid(
            "the daemon's socket is not known: none of TERRACE_SOCKET, XDG_RUNTIME_DIR, "
            "XDG_STATE_HOME and HOME names it or its folder: say where it is"
        )
    return folder / "terrace"


def _folder(variable: str, environment: Mapping[str, str]) -> Path | None:
    """An absolute folder that the variable names; the XDG rules ignore others."""
    named = environment.get(variable, "")
    return Path(named) if named.startswith("/") else None


def _given(variable: str, environment: Mapping[str, str]) -> Path | None:
    """The path that a setting of the daemon's gives, from `/` or `~/` on."""
    text = environment.get(variable, "")
    home = _folder("HOME", environment)
    if home is not None and text.startswith("~/"):
        return home / text[2:]
    if text and not text.startswith("/"):
        raise Invalid(f"{variable} is {text!r}: start the path with / or ~/")
    return Path(text) if text else None
