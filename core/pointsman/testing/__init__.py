"""For plugin authors: contract suites to inherit, a server that plays every fault, a clock, and doubles.

Installed with `pointsman[testing]`; its fixtures (`fault_server`, `no_leaks`) come with pytest's
plugin mechanism. Nothing here is loaded before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import faults as faults
    from .answers import Answer as Answer
    from .answers import Ask as Ask
    from .answers import Event as Event
    from .answers import Wire as Wire
    from .answers import WireError as WireError
    from .clock import Clock as Clock
    from .contract import Failure as Failure
    from .contract import HTTPProviderContract as HTTPProviderContract
    from .contract import ProviderContract as ProviderContract
    from .contract import StoreContract as StoreContract
    from .contract import StoreReads as StoreReads
    from .doubles import Scripted as Scripted
    from .doubles import Silent as Silent
    from .faults import Fault as Fault
    from .server import FaultServer as FaultServer
    from .server import Seen as Seen
    from .server import Visit as Visit
    from .stage import Stage as Stage

_MODULE_OF = {
    "Answer": "answers",
    "Ask": "answers",
    "Clock": "clock",
    "Event": "answers",
    "Wire": "answers",
    "WireError": "answers",
    "Failure": "contract",
    "Fault": "faults",
    "FaultServer": "server",
    "HTTPProviderContract": "contract",
    "ProviderContract": "contract",
    "Scripted": "doubles",
    "Seen": "server",
    "Silent": "doubles",
    "Stage": "stage",
    "StoreContract": "contract",
    "StoreReads": "contract",
    "Visit": "server",
}
__all__ = sorted([*_MODULE_OF, "faults"])


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name == "faults":
        return import_module(".faults", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'pointsman.testing' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
