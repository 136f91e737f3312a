"""Arguments as callers give them: a wrong one is refused by its name, with what it takes.

What a message of the protocol cannot hold is refused where the message is built.
"""

from __future__ import annotations

import numbers
import operator
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from .errors import Invalid

_T = TypeVar("_T")

# The clock of gRPC's core ends some time after that, and calls would end at once.
_SECONDS_MAX = 1e9

# The kernel takes paths of 107 bytes; the descriptor socket's has three more than the daemon's.
_SOCKET_BYTES_MAX = 104


def one_of(name: str, value: Any, kinds: type[_T] | tuple[type[_T], ...], takes: str) -> _T:
    """`value`, which is one of the kinds."""
    if not isinstance(value, kinds):
        raise Invalid(f"{name} is {reprlib.repr(value)}: give {takes}")
    return value


def each_of(name: str, values: Any, kind: type[_T], takes: str) -> list[_T]:
    """`values`, each of that kind, as a list."""
    if isinstance(values, kind) or not isinstance(values, Iterable):
        raise Invalid(f"{name} is {reprlib.repr(values)}: give a list, each {takes}")
    return [one_of(f"{name}[{at}]", value, kind, takes) for at, value in enumerate(values)]


def count(name: str, value: Any, least: int = 1) -> int:
    """How many, at least so many."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise Invalid(f"{name} is {reprlib.repr(value)}: give a whole number, {least} or more")
    return number


def whole_numbers(name: str, values: Any) -> list[int]:
    """A list, range or array of integers, as Python's own."""
    takes = "give whole numbers, as a list or an array"
    # Arrays of numpy and torch give Python's own numbers so, which hash and compare fast.
    as_list = getattr(values, "tolist", None)
    try:
        if isinstance(values, (bytes, bytearray)):
            raise TypeError("these are bytes")
        listed = as_list() if as_list is not None else list(values)
        kinds = set(map(type, listed))
        if kinds <= {int}:
            return listed
        if bool in kinds:
            raise TypeError("a truth value is none")
        return list(map(operator.index, listed))
    except TypeError as error:
        raise Invalid(f"{name} is {reprlib.repr(values)}: {takes} ({error})") from error


def seconds(name: str, value: Any) -> float:
    """A time that calls can be bounded by."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= _SECONDS_MAX:
        raise Invalid(f"{name} is {reprlib.repr(value)}: give seconds, more than 0, up to 1e9")
    return float(value)


def patience(name: str, value: Any) -> float | None:
    """A time to wait for something that goes on without; None: as long as it takes."""
    if value is None:
        return None
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or value != value:
        raise Invalid(f"{name} is {reprlib.repr(value)}: give seconds, or None to wait on")
    # Python's own clocks end as well.
    return float(min(max(value, 0), _SECONDS_MAX))


def socket(value: Any) -> Path:
    """Where a daemon listens, wherever this process goes later."""
    try:
        path = os.fsdecode(value)
    except TypeError as error:
        raise Invalid(f"socket is {reprlib.repr(value)}: give the path of a socket") from error
    if "\0" in path:
        raise Invalid(f"socket is {reprlib.repr(value)}: the path of a socket has no zero byte")
    absolute = os.path.abspath(path)
    # A relative path may name a socket whose own path is too long for the kernel.
    return Path(absolute if len(os.fsencode(absolute)) <= _SOCKET_BYTES_MAX else path)
