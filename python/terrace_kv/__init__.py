"""The Python client of Terrace, a daemon that keeps the KV cache blocks of LLM engines.

`Client` blocks, `AsyncClient` awaits; a `HostPool` is the memory that blocks are stored from and
loaded to, and `cuda` lends that of a GPU; `hashing` names blocks as vLLM does; `hints` says what to
keep. docs/python.md has a tour.
"""

from . import hashing, hints
from .aio import AsyncClient
from .answers import (
    Block,
    Completion,
    CopyState,
    EnvelopeAnswer,
    Kind,
    Lift,
    LiftCounts,
    LiftReason,
    LiftState,
    Limits,
    Link,
    LinkStatus,
    LoadPlan,
    Lookup,
    NvmeWrites,
    OpKind,
    Outcome,
    OutcomeStatus,
    Overlap,
    Record,
    Run,
    Scope,
    SessionInfo,
    Sessions,
    SessionState,
    Status,
    Stop,
    Tier,
    TierStatus,
    Usage,
    Welcome,
)
from .calls import Stored
from .client import Client
from .completions import Operation
from .errors import (
    Busy,
    ClientClosed,
    DaemonFault,
    DaemonGone,
    Invalid,
    NameTaken,
    NoDaemon,
    NotFound,
    Precondition,
    SessionLost,
    TerraceError,
    TimedOut,
    VersionMismatch,
)
from .lent import Borrowed, CudaExport, HbmMemory
from .namespace import Namespace
from .observe import daemon_block, daemon_sessions, daemon_status
from .places import default_socket
from .pool import HostPool, PageLayout
from .residency import Events, Residents, daemon_events, daemon_overlap
from .session import PoolHandle

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Block",
    "Borrowed",
    "Busy",
    "Client",
    "ClientClosed",
    "Completion",
    "CopyState",
    "CudaExport",
    "DaemonFault",
    "DaemonGone",
    "EnvelopeAnswer",
    "Events",
    "HbmMemory",
    "HostPool",
    "Invalid",
    "Kind",
    "Lift",
    "LiftCounts",
    "LiftReason",
    "LiftState",
    "Limits",
    "Link",
    "LinkStatus",
    "LoadPlan",
    "Lookup",
    "NameTaken",
    "Namespace",
    "NoDaemon",
    "NotFound",
    "NvmeWrites",
    "OpKind",
    "Operation",
    "Outcome",
    "OutcomeStatus",
    "Overlap",
    "PageLayout",
    "PoolHandle",
    "Precondition",
    "Record",
    "Residents",
    "Run",
    "Scope",
    "SessionInfo",
    "SessionLost",
    "SessionState",
    "Sessions",
    "Status",
    "Stop",
    "Stored",
    "TerraceError",
    "Tier",
    "TierStatus",
    "TimedOut",
    "Usage",
    "VersionMismatch",
    "Welcome",
    "daemon_block",
    "daemon_events",
    "daemon_overlap",
    "daemon_sessions",
    "daemon_status",
    "default_socket",
    "hashing",
    "hints",
]
