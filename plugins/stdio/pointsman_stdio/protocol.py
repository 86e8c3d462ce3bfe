"""How a program that serves is started and spoken to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, TypeAlias

from attrs import frozen
from pointsman import BackendError, UnavailableError

from ._process import Launch
from .frames import Framing, Message

#: What is done when the caller leaves: a call, or something of our own.
Undo: TypeAlias = tuple[str, Mapping[str, Any]] | Callable[[], object]
#: Makes of the result of a call the steps that end what it began; it must not take long.
Unmake: TypeAlias = Callable[[Any], Sequence[Undo]]
#: Runs a program to its end, and returns what it prints: `program.output`, but ended when the server is.
Ask: TypeAlias = Callable[[Launch], str]


class ProtocolRefused(UnavailableError):
    """The program does not speak the protocol. `code` is JSON-RPC's, if it said so."""


@frozen
class Protocol:
    """What is the same for every process of a program."""

    name: str  #: of the program, for messages
    framing: Framing
    #: Fills the process's own folder, which is removed when it ends, and says what to start.
    prepare: Callable[[Path, Ask], Launch]
    #: What it means that a call was answered with this error.
    refusal: Callable[[Any], BackendError]
    #: Sent first. The answer to the first call among them says whether the program speaks the protocol.
    hello: Sequence[Message] = ()
    #: Raw bytes that are sent in place of messages, and then the end of input: for a program that serves once.
    input: bytes | None = None
    #: Names the exchange that a notification belongs to.
    route: Callable[[Message], str | None] = lambda message: ""
    patience: float = 30.0  #: seconds within which every call must be answered, and the program be there
    exchanges: float = inf  #: after so many another process is started: of what one keeps and never gives back
