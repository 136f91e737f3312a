"""The protocol's messages and calls, made from the descriptors that the build compiled.

Holds formats only: no connection and no decision. Only `convert` and `session`
know it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTOCOL_VERSION = 2

_PACKAGE = "terrace.v1"
_SERVICE = f"{_PACKAGE}.Terrace"
_DESCRIPTORS = "terrace_v1.fds"


class Method(NamedTuple):
    """One call of the service: its path, and how its messages are written and read."""

    path: str
    serialize: Any
    parse: Any
    streams: bool


def _load() -> descriptor_pool.DescriptorPool:
    try:
        raw = resources.files(__package__).joinpath(_DESCRIPTORS).read_bytes()
    except FileNotFoundError as error:
        where = Path(__file__).parent
        raise ImportError(
            f"{where} lacks {_DESCRIPTORS}, which is made when the package is built: "
            "pip install it (see docs/python.md) instead of importing it from the source tree"
        ) from error
    # A pool of its own: no other package's definitions can clash with these.
    pool = descriptor_pool.DescriptorPool()
    waiting = list(descriptor_pb2.FileDescriptorSet.FromString(raw).file)
    known: set[str] = set()
    while waiting:
        ready = [file for file in waiting if known.issuperset(file.dependency)]
        assert ready, "the build compiles every file that another one imports"
        for file in ready:
            pool.AddSerializedFile(file.SerializeToString())
            known.add(file.name)
            waiting.remove(file)
    return pool


_POOL = _load()


def message(name: str) -> Any:
    """The class of the message `name` (`Action.Pin` for one inside another)."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def enum_names(name: str) -> dict[int, str]:
    """The values of the enum `name`, by number."""
    values = _POOL.FindEnumTypeByName(f"{_PACKAGE}.{name}").values
    return {value.number: value.name for value in values}


def _methods() -> dict[str, Method]:
    made = {}
    for one in _POOL.FindServiceByName(_SERVICE).methods:
        request = message_factory.GetMessageClass(one.input_type)
        answer = message_factory.GetMessageClass(one.output_type)
        path = f"/{_SERVICE}/{one.name}"
        made[one.name] = Method(path, request.SerializeToString, answer.FromString, False)
    for name in ("Completions", "Events"):
        made[name] = made[name]._replace(streams=True)
    return made


METHODS = _methods()
