"""Part of the contract: a key is visible in nothing that comes out of a provider."""

from __future__ import annotations

import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest

from ...scope import Scope
from ._suite import NOT_LEFT_OUT, RAISES, Failure, Subject, Suite, needs

_KEY_NAMES = ("api_key", "key", "token", "password", "secret")


class Secrecy(Suite):
    """repr, text, log, output, values, errors, tracebacks with their locals, pickles."""

    def test_keys_are_wrapped(self, subject: Subject) -> None:
        """A field that is called like a key holds a `Secret`, or nothing."""
        for name in _KEY_NAMES:
            held = getattr(subject.provider, name, None)
            assert not isinstance(held, str | bytes) or not held, f"{name} holds plain text: use Secret.of as converter"

    @needs("key")
    def test_no_key_in_a_repr(self, subject: Subject) -> None:
        """Neither the provider nor its pickle (where it can be pickled) shows its key."""
        keys = self._keys(subject)
        provider = subject.provider
        check_hidden(
            keys, "the provider", repr(provider), str(provider), f"{provider}", repr(getattr(provider, "__dict__", ""))
        )
        try:
            data = pickle.dumps(provider)
        except Exception:
            return  # it refuses to be pickled: nothing can leak
        check_hidden(keys, "the provider's pickle", data.decode("latin-1"))

    @needs("key")
    @pytest.mark.parametrize("failure", [None, *(f for f in get_args(Failure) if f in RAISES)])
    def test_no_key_in_anything(
        self, make: Callable[..., Subject], capfd: pytest.CaptureFixture[str], failure: Failure | None
    ) -> None:
        """Answers, findings, errors with their causes and locals, log and output show no key."""
        subject = make(failure)
        keys = self._keys(subject)
        with _logged() as log:
            texts = self._everything(subject, failure)
        out, err = capfd.readouterr()
        check_hidden(keys, "what came out", *texts)
        check_hidden(keys, "the log", log.getvalue())
        check_hidden(keys, "the output", out, err)

    def _everything(self, subject: Subject, failure: Failure | None) -> list[str]:
        calls: list[Callable[[], Any]] = [_later(self, ask, failure) for _, ask in subject.ways()]
        if subject.has("health") and failure != "silent":  # that one waits for seconds: the failures' tests look at it
            calls.append(subject.health)
        texts: list[str] = []
        for call in calls:
            ended = self.run(call, within=self.timeout_s + self.patience_s)
            if ended.error is not None:
                texts += shown(ended.error)
            texts += [repr(ended.value), pickle.dumps(ended.value).decode("latin-1")]
        return texts

    def _keys(self, subject: Subject) -> list[str]:
        keys = self.secrets(subject.provider)
        assert keys, f"the provider holds no Secret, and the class names none in `secret`: {NOT_LEFT_OUT}"
        return keys


def _later(suite: Suite, ask: Callable[[Any], Any], failure: Failure | None) -> Callable[[], Any]:
    return lambda: ask(suite.request(scope=Scope(suite.short_s if failure == "silent" else suite.timeout_s)))


def shown(error: BaseException) -> list[str]:
    """Return everything that an error can show, with all that it was caused by."""
    formatted = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    try:
        data = pickle.dumps(error).decode("latin-1")
    except Exception as refused:
        data = repr(refused)
    hidden = [repr(vars(each)) for each in (error, error.__cause__, error.__context__) if each is not None]
    return [str(error), repr(error), repr(error.args), formatted, data, *hidden]


@contextmanager
def _logged() -> Iterator[io.StringIO]:
    """Record every line of every logger, whatever its level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
    root, ours = logging.getLogger(), logging.getLogger("pointsman")
    levels = root.level, ours.level
    root.addHandler(handler)
    root.setLevel(1)
    ours.setLevel(1)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        ours.setLevel(levels[1])


def check_hidden(keys: list[str], what: str, *texts: str) -> None:
    """Fail if a key is in one of these texts. The message shows its surroundings and not the key."""
    for key in keys:
        for text in texts:
            place = text.find(key)
            if place >= 0:
                pytest.fail(f"{what} shows the key: ...{text[max(0, place - 80) : place]}<here>", pytrace=False)
