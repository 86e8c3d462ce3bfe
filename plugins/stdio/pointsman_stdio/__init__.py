"""For providers that are programs: processes that outlive nobody, asked over JSON-RPC, and all that they share.

    @frozen(kw_only=True)
    class Codex(Program):               # provider.py: options, health, errors, and when its server is not to be had
        ...

    with keeper.exchange(request.scope) as exchange:
        thread = exchange.call("thread/start", {...})
        exchange.listen(thread["id"])
        for message in exchange.messages():
            ...

POSIX only. Nothing is started before the first call.
"""

from ._process import Ended, Launch, surroundings
from .exchange import Exchange, once
from .flat import flat
from .frames import HEADERS, LINES, Framing, Message
from .keeper import Keeper
from .program import find, output, refuses_arguments, version_of
from .protocol import Ask, Protocol, ProtocolRefused, Undo
from .provider import Program, Read
from .server import Server
from .words import HOPELESS, Words

__all__ = [
    "HEADERS",
    "HOPELESS",
    "LINES",
    "Ask",
    "Ended",
    "Exchange",
    "Framing",
    "Keeper",
    "Launch",
    "Message",
    "Program",
    "Protocol",
    "ProtocolRefused",
    "Read",
    "Server",
    "Undo",
    "Words",
    "find",
    "flat",
    "once",
    "output",
    "refuses_arguments",
    "surroundings",
    "version_of",
]
