"""The error tree: drawn, defined, and safe to show and to send."""

import copy
import inspect
import pickle
import re
import traceback
from typing import Any

import pytest
from pointsman import Attempt, Secret, errors
from pointsman.errors import (
    AllBackendsFailed,
    BackendError,
    BackendTimeout,
    ConfigError,
    ContextLengthError,
    IncompleteAnswer,
    QuotaError,
    RateLimitError,
    UnavailableError,
)

CLASSES = {
    name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, errors.PointsmanError)
}
SINGLE = [cls for cls in CLASSES.values() if issubclass(cls, BackendError) and cls is not AllBackendsFailed]
KEY = "a-key-that-nobody-must-see"


def several(*found: Exception, retry_after: float | None = None) -> AllBackendsFailed:
    return AllBackendsFailed("no backend answered", found, retry_after=retry_after)


def test_the_tree_is_as_drawn() -> None:
    """The drawing at the top of errors.py is the tree: every class, each under its parent."""
    drawn: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^    ([ │├└─]*)(\w+)(  |$)", line):
            depth = len(match[1]) // 4
            above[depth] = match[2]
            if depth:
                drawn[match[2]] = above[depth - 1]
    defined = {name: cls.__bases__[0].__name__ for name, cls in CLASSES.items() if name != "PointsmanError"}
    assert drawn == defined
    assert len(CLASSES) <= 17


@pytest.mark.parametrize("cls", SINGLE, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_every_error_survives_a_copy_and_a_pickle(cls: type[BackendError], copied: Any) -> None:
    """An error that crosses a process keeps its class, its message and every fact."""
    error = cls(
        "it broke", status=503, code="overloaded", parameter="seed", retry_after=2.5, retry_same=True, try_next=False
    )
    error.backend, error.model = "main", "m"
    error.attempts = (Attempt("main", "m", "failed"),)
    again = copied(error)
    assert type(again) is cls
    assert str(again) == str(error) == "main: it broke"
    assert vars(again) == vars(error)


def test_partial_text_and_limits_survive_a_pickle() -> None:
    """The text of an incomplete answer and the limit of a window are facts like any other."""
    broken = IncompleteAnswer("cut")
    broken.text = "half an ans"
    assert pickle.loads(pickle.dumps(broken)).text == "half an ans"
    long = ContextLengthError("too long")
    long.limit, long.needed = 4096, 5000
    again = pickle.loads(pickle.dumps(long))
    assert (again.limit, again.needed) == (4096, 5000)


def test_a_group_survives_a_pickle() -> None:
    """`AllBackendsFailed` keeps its errors, its hint and its attempts across a pickle."""
    error = several(RateLimitError("slow"), BackendTimeout("late"), retry_after=3.0)
    error.attempts = (Attempt("a", None, "failed"),)
    again = pickle.loads(pickle.dumps(error))
    assert [(type(e), str(e)) for e in again.exceptions] == [(RateLimitError, "slow"), (BackendTimeout, "late")]
    assert (again.retry_after, again.attempts, str(again)) == (3.0, error.attempts, str(error))


def test_a_group_can_be_taken_apart() -> None:
    """`except*`, `split` and `subgroup` give parts of the same class that keep hint and attempts."""
    error = several(RateLimitError("slow"), QuotaError("empty"), retry_after=7.0)
    error.attempts = (Attempt("a", None, "failed"), Attempt("b", None, "failed"))
    caught: list[Any] = []
    try:
        try:
            raise error
        except* RateLimitError as part:
            caught.append(part)
    except AllBackendsFailed as rest:
        caught.append(rest)
    assert [type(part) for part in caught] == [AllBackendsFailed, AllBackendsFailed]
    assert [type(part.exceptions[0]) for part in caught] == [RateLimitError, QuotaError]
    assert all((part.retry_after, part.attempts) == (7.0, error.attempts) for part in caught)
    assert error.subgroup(BackendTimeout) is None


def test_a_group_is_a_backend_error() -> None:
    """Who catches `BackendError` catches the failure of all backends too, and need not know of groups."""
    with pytest.raises(BackendError):
        raise several(UnavailableError("down"))


def test_a_timeout_is_a_timeout() -> None:
    """`BackendTimeout` is what the standard library calls a timeout, and is not asked again at once."""
    error = BackendTimeout("late")
    assert isinstance(error, TimeoutError)
    assert str(error) == "late"
    assert not error.retry_same


@pytest.mark.parametrize(
    ("name", "retry_same", "try_next", "rests"),
    [
        ("BackendError", False, True, True),
        ("AuthenticationError", False, True, True),
        ("QuotaError", False, True, True),
        ("RateLimitError", True, True, True),
        ("ModelNotFoundError", False, True, True),
        ("InvalidModelError", False, True, True),
        ("InvalidRequestError", False, False, False),
        ("ContextLengthError", False, True, False),
        ("ContentFilterError", False, False, False),
        ("UnavailableError", True, True, True),
        ("BackendTimeout", False, True, True),
        ("UnusableAnswer", True, True, False),
        ("IncompleteAnswer", False, False, False),
    ],
)
def test_each_class_says_what_follows(name: str, retry_same: bool, try_next: bool, rests: bool) -> None:
    """Every class answers: again here, on to the next, and does the backend rest meanwhile (FAULTS A and B)."""
    cls = CLASSES[name]
    assert issubclass(cls, BackendError)
    assert (cls.retry_same, cls.try_next, cls.cooldown > 0) == (retry_same, try_next, rests)


def test_one_error_may_overrule_its_class() -> None:
    """What one failure knows better than its class concerns this one failure alone."""
    error = RateLimitError("not today", retry_same=False, try_next=False)
    assert (error.retry_same, error.try_next) == (False, False)
    assert (RateLimitError.retry_same, RateLimitError("x").try_next) == (True, True)


def test_keys_are_masked_in_every_form_of_an_error() -> None:
    """A key that a provider echoes back is in no message, repr, pickle or traceback."""
    secret = Secret(KEY)
    error = BackendError(f"the server says: wrong key {KEY}")
    group = several(error)
    for shown in (error, group):
        forms = [str(shown), repr(shown), "".join(traceback.format_exception(shown)), repr(pickle.dumps(shown))]
        assert not any(KEY in form for form in forms)
    assert secret.reveal() == KEY


def test_a_configuration_error_lists_every_problem() -> None:
    """One problem reads as a sentence, several as a list, and all of them survive a pickle."""
    one, two = ConfigError("a: wrong"), ConfigError("a: wrong", "b: wrong too")
    assert str(one) == "a: wrong"
    assert str(two) == "2 problems:\n  - a: wrong\n  - b: wrong too"
    assert pickle.loads(pickle.dumps(two)).problems == two.problems
