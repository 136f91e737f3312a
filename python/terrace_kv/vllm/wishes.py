"""A directive's wish, as a request's JSON has it: checked as the daemon checks it.

The daemon refuses a whole store for one wish that makes no sense, so none leaves here.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypeVar

from .. import hints
from ..answers import Kind, Scope, Tier

PRIORITY_MAX = 100
# The protocol's numbers of tokens and of milliseconds.
NUMBER_MAX = (1 << 64) - 1

_Word = TypeVar("_Word", bound=IntEnum)


def read(given: Mapping[str, Any]) -> hints.Wish:
    """The wish that is meant. Raises `ValueError`, which says what of it makes no sense."""
    named = {name: value for name, value in given.items() if value is not None}
    for name in ("priority_ms", "ttl_ms", "delete_after_ms"):
        _bounded(named, name, 1, NUMBER_MAX)
    _bounded(named, "priority", 0, PRIORITY_MAX)
    if not isinstance(named.get("refresh_on_hit", True), bool):
        raise ValueError("refresh_on_hit is true or false")
    for name, other in (("priority_ms", "priority"), ("refresh_on_hit", "ttl_ms")):
        if name in named and other not in named:
            raise ValueError(f"{name} needs {other}")
    words = {"kind": Kind, "floor": Tier, "scope": Scope}
    named |= {name: _word(name, named[name], words[name]) for name in words if name in named}
    try:
        return hints.Wish(**named)
    except TypeError as error:
        raise ValueError(str(error)) from error


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_token(value: Any) -> bool:
    """Whether it is the place of a token, as far as the protocol counts them."""
    return is_whole(value) and 0 <= value <= NUMBER_MAX


def _bounded(named: Mapping[str, Any], name: str, least: int, most: int) -> None:
    value = named.get(name, least)
    if not (is_whole(value) and least <= value <= most):
        raise ValueError(f"{name} is {reprlib.repr(value)}: give {least} to {most}")


def _word(name: str, value: Any, words: type[_Word]) -> _Word | None:
    """By its name or its number; 0 and "unknown" ask for nothing."""
    try:
        return (words[value.upper()] if isinstance(value, str) else words(value)) or None
    except (KeyError, ValueError):
        known = ", ".join(one.name.lower() for one in words if one)
        raise ValueError(f"{name} is {reprlib.repr(value)}: give {known}") from None
