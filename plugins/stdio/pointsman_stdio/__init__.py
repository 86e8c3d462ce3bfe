"""For providers that are programs of this machine: processes that outlive nobody, asked over JSON-RPC.

    keeper = Keeper(Protocol("codex", LINES, prepare, hello=(...,), route=...))
    with Exchange(keeper.server(), request.scope) as exchange:
        thread = exchange.call("thread/start", {...})
        exchange.listen(thread["id"])
        for message in exchange.messages():
            ...

POSIX only. Nothing is started before the first call.
"""

from .exchange import Exchange, RefusedCall, once
from .frames import HEADERS, LINES, Framing
from .keeper import Keeper
from .program import find, health_of, output, surroundings, version_of
from .server import Ended, Launch, Protocol, ProtocolRefused, Server

__all__ = [
    "HEADERS",
    "LINES",
    "Ended",
    "Exchange",
    "Framing",
    "Keeper",
    "Launch",
    "Protocol",
    "ProtocolRefused",
    "RefusedCall",
    "Server",
    "find",
    "health_of",
    "once",
    "output",
    "surroundings",
    "version_of",
]
