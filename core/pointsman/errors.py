"""Everything that Pointsman raises on purpose.

    PointsmanError
    ├── ConfigError                    the configuration or an argument is wrong; lists every problem
    └── BackendError                   a backend did not answer; the router decides what follows
        ├── AuthenticationError        key missing, wrong or not allowed
        ├── QuotaError                 no money or no quota left
        ├── RateLimitError             too many requests or tokens for now
        ├── ModelNotFoundError         no such model, or retired
        │   └── InvalidModelError      the model's file is broken or too large
        ├── InvalidRequestError        the request itself is wrong, for every backend
        │   └── ContextLengthError     too long for this model
        ├── ContentFilterError         refused
        ├── ContentNotFoundError       the store does not have what is asked for
        ├── UnavailableError           connection, overload, server error
        │   └── BackendTimeout         no answer in time (also a TimeoutError)
        ├── UnusableAnswer             an answer that is none: empty, broken, without an end
        │   └── IncompleteAnswer       a stream broke after its first content; has the partial text
        └── AllBackendsFailed          several were tried (also an ExceptionGroup of their errors)

Each class answers two questions as class attributes, which one error may override for itself:
may the same backend be asked again (`retry_same`), and may the next one be asked (`try_next`).
`cooldown` says for how many seconds the failing backend is then left alone if it gave no hint;
`retry_after` is the backend's own hint.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from .secret import redact

if TYPE_CHECKING:
    from .values import Attempt, Usage

#: How long a cool-down lasts that only a change of the configuration can end earlier, in seconds.
LONG = 3600.0


class PointsmanError(Exception):
    """The root: catches all that Pointsman raises on purpose."""


class ConfigError(PointsmanError):
    """The configuration, or an argument, is wrong. `problems` has one line for each thing to mend."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return f"{len(self.problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in self.problems)


class BackendError(PointsmanError):
    """A backend did not answer.

    Providers raise the class below that fits, with a message that says what was wrong and what to
    do, never with a whole body; keys in it are masked here. The router adds `backend`, `model` and
    `attempts`.

    :param status: the HTTP status, exit code or signal, where there is one.
    :param code: the provider's own word for it.
    :param parameter: the field of `Request` that the backend refuses, if that is the matter.
    :param retry_after: seconds after which the backend may be asked again, if it said so.
    :param retry_same: overrides the class: may the same request be sent again to this backend?
    :param try_next: overrides the class: may another backend be asked?
    """

    retry_same: bool = False
    try_next: bool = True
    cooldown: ClassVar[float] = 5.0
    #: Retries that it is worth where nobody else is left, and any are allowed: of a machine that needs minutes to wake.
    retries: int = 0
    #: Whether it says something about the model only, and not about the backend as a whole.
    of_model: bool = False
    #: Whether it says nothing against the backend.
    blameless: ClassVar[bool] = False

    def __init__(  # noqa: PLR0913 - facts of one failure, all optional, all by name
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        parameter: str | None = None,
        retry_after: float | None = None,
        retry_same: bool | None = None,
        try_next: bool | None = None,
    ) -> None:
        super().__init__(redact(message))
        self.status = status
        self.code = redact(code) if code else code
        self.parameter = redact(parameter) if parameter else parameter
        self.retry_after = retry_after
        self.retry_same = self.retry_same if retry_same is None else retry_same
        self.try_next = self.try_next if try_next is None else try_next
        self.backend: str | None = None
        self.model: str | None = None
        #: What the failure cost, where the provider said so
        self.usage: Usage | None = None
        self.attempts: tuple[Attempt, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by `__init__`, as usual: a plugin's class may have one of its own.
        return copyreg.__newobj__, (type(self),), {**vars(self), "args": self.args}  # type: ignore[attr-defined] # of pickle

    @property
    def message(self) -> str:
        """What was wrong, without the name of the backend."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.backend}: {self.message}" if self.backend else self.message


class AuthenticationError(BackendError):
    """The key is missing, wrong, or may not do this: nothing but another configuration helps."""

    cooldown = LONG


class QuotaError(BackendError):
    """No money or no quota is left: waiting some seconds does not help."""

    cooldown = LONG


class RateLimitError(BackendError):
    """Too many requests or tokens for now. `retry_after` says how long, if the backend did."""

    retry_same = True
    cooldown = 5.0
    of_model = True


class ModelNotFoundError(BackendError):
    """The backend has no such model (any more), or the file of a local model is not there."""

    cooldown = LONG
    of_model = True


class InvalidModelError(ModelNotFoundError):
    """The file of a local model is broken, not a model, or larger than the memory."""


class InvalidRequestError(BackendError):
    """The request is wrong and would be wrong for every backend: it is raised at once."""

    try_next = False
    cooldown = 0.0
    blameless = True


class ContextLengthError(InvalidRequestError):
    """The request is too long for this model; one with a larger window may still take it.

    `limit` and `needed` are tokens, where known.
    """

    try_next = True
    limit: int | None = None
    needed: int | None = None


class ContentFilterError(BackendError):
    """The model or its filter refused. Asking another one is the caller's decision (`on_refusal="next"`)."""

    try_next = False
    cooldown = 0.0
    blameless = True


class ContentNotFoundError(BackendError):
    """The store does not have this content. Another one may."""

    cooldown = 0.0
    blameless = True


class UnavailableError(BackendError):
    """The backend cannot be reached, is overloaded, or failed inside."""

    retry_same = True
    of_model = True


class BackendTimeout(UnavailableError, TimeoutError):
    """The backend did not answer in time. It is not asked again for the same request."""

    retry_same = False
    cooldown = 15.0


class UnusableAnswer(BackendError):
    """What came back is no answer: empty, broken, cut, or not of the form that was asked for."""

    retry_same = True
    cooldown = 0.0
    of_model = True


class IncompleteAnswer(UnusableAnswer):
    """A stream broke after content had reached the caller. `text` is all that had come."""

    retry_same = False
    try_next = False
    text: str = ""


class AllBackendsFailed(BackendError, ExceptionGroup):
    """Several backends were tried, or none could be. `exceptions` are their errors in the order tried.

    `retry_after` is the number of seconds after which the first of them may be asked again.
    """

    if TYPE_CHECKING:

        @property
        def exceptions(self) -> tuple[BackendError, ...]:
            """Their errors: never a group within the group."""

    def __new__(cls, message: str, errors: Sequence[Exception], **_: Any) -> AllBackendsFailed:
        return ExceptionGroup.__new__(cls, message, errors)

    def __init__(self, message: str, errors: Sequence[Exception], *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after, retry_same=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exceptions), self.__dict__.copy()

    def derive(self, errors: Sequence[Exception], /) -> AllBackendsFailed:  # type: ignore[override] # of our own type
        """Return the same failure with only these errors: `except*` and `split` call this."""
        part = AllBackendsFailed(self.message, errors, retry_after=self.retry_after)
        part.attempts = self.attempts
        return part
