"""What a fault is, and how the catalogue names them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from attrs import frozen

if TYPE_CHECKING:
    from .._connection import Exchange

P = ParamSpec("P")
Play = Callable[["Exchange"], Awaitable[None]]


@frozen
class Fault:
    """Something that a server does with one request.

    Write one of your own as `Fault("mine", play)`: `play` is a coroutine function that gets the
    `Exchange` and sends, sleeps, closes or resets as it likes.
    """

    name: str
    play: Play
    on_connect: bool = False  #: happens before a request is read, so `play` is not asked

    def __repr__(self) -> str:
        return f"<fault {self.name}>"


#: name -> (rows that it plays, none for a healthy answer; what makes the fault)
CATALOGUE: dict[str, tuple[tuple[int, ...], Callable[..., Fault]]] = {}


def fault(*rows: int) -> Callable[[Callable[P, Play]], Callable[P, Fault]]:
    """Make a function that returns what to play into one that returns a named `Fault` of the catalogue."""

    def decorate(make: Callable[P, Play]) -> Callable[P, Fault]:
        @wraps(make)
        def made(*args: P.args, **kwargs: P.kwargs) -> Fault:
            given = ", ".join([*(repr(a) for a in args), *(f"{name}={value!r}" for name, value in kwargs.items())])
            return Fault(f"{make.__name__}({given})", make(*args, **kwargs))

        CATALOGUE[make.__name__] = (rows, made)
        return made

    return decorate
