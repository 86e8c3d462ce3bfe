"""What may be set for a router and for a backend: types with their ranges, for programs and files alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from attrs import frozen

from ._structure import fields_of, misfits
from ._written import Written
from .errors import ConfigError
from .secret import Secret

#: No time, size or number of ours is larger: the system's clock takes no more seconds.
_MOST = 1 << 31


class Only(NamedTuple):
    """Stands in `Annotated[type, Only(...)]`: which values of the type may be given."""

    fits: Callable[[Any], object]
    words: str


def between(low: float, high: float = _MOST) -> Only:
    """Return what a number from `low` to `high` is."""
    return Only(lambda value: low <= value <= high, f"from {low:g}" + (f" to {high:g}" if high < _MOST else " upwards"))


Seconds: TypeAlias = Annotated[float, Only(lambda value: 0 < value <= _MOST, "above 0")]
FromZero: TypeAlias = Annotated[float, between(0)]
Count: TypeAlias = Annotated[int, between(1)]
Retries: TypeAlias = Annotated[int, between(0, 100)]
Name: TypeAlias = Annotated[str, Only(str.strip, "that is not empty")]
OnBreak: TypeAlias = Literal["raise", "restart", "continue"]
_DOLLARS = Only({"input", "output", "cached"}.issuperset, "in US dollars for a million tokens: input, output, cached")
Prices: TypeAlias = Annotated[Mapping[str, FromZero], _DOLLARS]


@frozen
class Policy:
    """What a call may cost and what follows from trouble, where it does not say so itself. Times are seconds."""

    timeout: Seconds | None = 120.0  #: whole call, with all its attempts
    first_token_timeout: Seconds | None = 60.0  #: of a stream, each attempt
    idle_timeout: Seconds | None = 60.0  #: between two pieces of content of a stream
    min_rate: FromZero | None = None  #: characters of content a second
    max_retries: Retries = 1  #: further attempts at the same backend
    on_refusal: Literal["raise", "next"] = "raise"
    on_break: OnBreak = "raise"
    on_limit: Literal["next", "wait"] = "next"


@frozen
class RouterSettings(Policy):
    """The arguments of `Router`, and the section ROUTER of a configuration."""

    order: str = "priority"  #: a plugin's name; a program may give the plugin itself
    rate_limit_storage: Secret | None = None  #: a URL, which may hold a password
    health_ttl: FromZero = 60.0
    middleware: tuple[str, ...] = ()  #: the same of several, the outermost first
    receipts: bool | Written = False  #: whether answers are recorded, or how
    verbose: bool = False
    log_content: bool = False


#: What may be plugins themselves, or their options; all else a program gives as a configuration does.
_OF_PLUGINS = ("order", "middleware", "receipts")
_CHECKED = {name: option for name, option in fields_of(RouterSettings).items() if name not in _OF_PLUGINS}


def policy_of(arguments: Mapping[str, Any], of: str = "Router") -> Policy:
    """Return the policy that is among the arguments of a `Router` or a `Store`.

    :raises ConfigError: with a line for each of them that is wrong.
    """
    given = {name: value for name, value in arguments.items() if name in _CHECKED}
    if problems := misfits(_CHECKED, given):
        raise ConfigError(*(f"{of}.{problem}" for problem in problems))
    return Policy(**{name: value for name, value in given.items() if name in fields_of(Policy)})
