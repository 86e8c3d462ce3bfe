"""What a program says when something fails, as the error that says what follows from it: by a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from attrs import frozen
from pointsman import BackendError, UnavailableError
from pointsman.http import classify

Make: TypeAlias = Callable[..., BackendError]  #: a class of error, or `partial` of one
#: An `UnavailableError` that is the same when it is asked again.
HOPELESS: Make = partial(UnavailableError, retry_same=False)


@frozen
class Words:
    """The words of one program. What stands in neither table is read as the answer of a service would be."""

    name: str  #: of the program, for messages
    kinds: Mapping[str, Make]  #: its own names of what may happen
    sentences: Mapping[str, Make]  #: patterns of what it says, regardless of case; the first that fits counts

    def error(
        self, message: str, *, kind: str = "", status: int | None = None, otherwise: Make = UnavailableError
    ) -> BackendError:
        """Return what it means.

        :param message: a sentence, or the body of a service's answer.
        :param status: of the service's answer, if the program tells it.
        :param otherwise: what it is if nobody knows.
        """
        is_body = message.lstrip().startswith("{")
        body = message.encode("utf-8", "replace") if is_body else {"message": message}
        read = classify(status or 200, {}, body, where=self.name)
        make = self.kinds.get(kind) or next((m for p, m in self.sentences.items() if re.search(p, message, re.I)), None)
        if make is None and (status is not None or is_body):
            return read
        make = make or (otherwise if type(read) is UnavailableError else type(read))
        text = message if message.startswith(self.name) else f"{self.name}: {message}"
        code = kind if kind in self.kinds else read.code
        text = read.message if is_body else f"{text:.300}"
        return make(text, status=status, code=code, retry_after=read.retry_after)

    def knows(self, message: str) -> bool:
        """Whether anybody knows what it means."""
        return not isinstance(self.error(message, otherwise=_Unknown), _Unknown)


class _Unknown(UnavailableError):
    """Nobody knows."""
