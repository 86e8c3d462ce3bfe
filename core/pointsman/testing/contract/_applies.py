"""Which tests of the contract apply to a provider: told when they are collected, so that none has to be skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, get_args

import pytest

from ._suite import Failure, Subject, Suite

_WHY = {
    "stream": "it has no hook stream",
    "health": "it has no hook health",
    "key": "it holds no Secret, and the class names no key in `secret`",
    "collect": "it has no hook collect",
    "damage": "the class has no method damage",
}
_FAILURES = frozenset[str](get_args(Failure))
_ALL = frozenset(_WHY) | {"provider"}
_RAISED = (Exception, pytest.skip.Exception, pytest.fail.Exception)


def leave_out(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[str]]:
    """Return the tests that do not apply, and a line for each class that has such: how many, and why."""
    looked_at: dict[str, _Providers] = {}
    missing: dict[str, Counter[str]] = {}
    left_out: list[pytest.Item] = []
    for item in items:
        if isinstance(item, pytest.Function) and item.cls is not None and issubclass(item.cls, Suite):
            place = item.listchain()[-2].nodeid  # the class
            providers = looked_at.setdefault(place, _Providers(item.cls))
            if part := providers.missing(item):
                missing.setdefault(place, Counter())[part] += 1
                left_out.append(item)
    return left_out, [f"{place}: {_told(parts)}" for place, parts in missing.items()]


def _told(parts: Counter[str]) -> str:
    reasons = [f"{_WHY[part]} ({count})" for part, count in parts.items() if part in _WHY]
    if failures := [f"{part} ({count})" for part, count in parts.items() if part in _FAILURES]:
        reasons.append(f"make_failing gives no provider for {', '.join(failures)}")
    return f"{parts.total()} tests do not apply: {'; '.join(reasons)}"


class _Providers:
    """What the providers of one class have. Each is built once, before there are fixtures, and closed at once."""

    def __init__(self, cls: type[Suite]) -> None:
        self._cls = cls
        self._parts: dict[str | None, frozenset[str]] = {}

    def missing(self, item: pytest.Function) -> str | None:
        """Return a part that a test needs and the provider does not have."""
        failure: Any = item.callspec.params.get("failure") if hasattr(item, "callspec") else None
        if not self._has(failure, "provider"):
            return str(failure)
        for marker in item.iter_markers("pointsman_needs"):
            for part in marker.args:
                if not (self._has(part, "provider") if part in _FAILURES else self._has(failure, part)):
                    return str(part)
        return None

    def _has(self, failure: Failure | None, part: str) -> bool:
        if failure not in self._parts:
            try:
                self._parts[failure] = _parts_of(self._cls(), failure)
            except _RAISED:
                self._parts[failure] = _ALL  # the tests are kept: they show what is wrong
        return part in self._parts[failure]


def _parts_of(suite: Suite, failure: Failure | None) -> frozenset[str]:
    provider = suite.sample(failure)
    if provider is None:
        return frozenset()
    subject = Subject(provider)
    try:
        parts = suite.parts(subject)
    finally:
        subject.close()
    return frozenset({"provider", *(part for part, there in parts.items() if there)})
