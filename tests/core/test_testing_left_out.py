"""Tests of the contract that do not apply are not collected, and the report says which and why."""

import subprocess
import sys

import pytest
from pointsman.testing.contract import RAISES  # loaded here, so that no inner run loads it anew

pytest_plugins = ["pytester"]

PROVIDERS = """
from attrs import frozen
from pointsman import Completion, Secret, errors, hookimpl
from pointsman.testing import HTTPProviderContract, ProviderContract, Scripted
from pointsman.testing.contract import needs

closed = []


@frozen
class Least:
    key: str | Secret | None = None
    capabilities: frozenset[str] = frozenset()

    @hookimpl
    def generate(self, request):
        if self.key == "down":
            raise errors.UnavailableError("the service is down; try again")
        return Completion("x", usage=None)

    @hookimpl
    def close(self):
        closed.append(self)

"""
OPTIONS = ("-p", "no:cacheprovider", "--import-mode=importlib", "--strict-markers")


def run(pytester: pytest.Pytester, code: str, *options: str) -> tuple[dict[str, str], str, dict[str, int]]:
    """Run a class `TestIt`; return the outcome of each test, the line that says what was left out, and the counts."""
    pytester.makepyfile(PROVIDERS + code)
    result = pytester.runpytest_inprocess(*OPTIONS, "-rA", *options)
    results = [line.split(" ") for line in result.outlines if "::TestIt::" in line]
    found = {words[1].split("::")[2]: words[0] for words in results if words[0] in ("PASSED", "FAILED", "ERROR")}
    told = [line for line in result.outlines if "do not apply" in line]
    assert len(told) <= 1
    return found, "".join(told), result.parseoutcomes()


def test_what_does_not_apply_is_left_out_aloud(pytester: pytest.Pytester) -> None:
    """No test is skipped: one line for the class says how many were left out, and for the want of what."""
    found, told, counts = run(pytester, "class TestIt(ProviderContract):\n    make_provider = lambda self: Least()\n")
    assert set(found.values()) == {"PASSED"}
    assert counts == {"passed": len(found), "deselected": counts["deselected"]}
    assert f"::TestIt: {counts['deselected']} tests do not apply: " in told
    assert all(f"{failure} (" in told for failure in RAISES)
    for reason in ("no hook stream (3)", "no hook health (1)", "holds no Secret", "unavailable (4)", "silent (6)"):
        assert reason in told
    assert not {"test_tells_its_health", "test_works_on_after_leaving", "test_cancelling_stops_the_work"} & set(found)
    assert {"test_calls_tools", "test_fulfils_a_schema", "test_leaves_nothing_behind"} <= set(found)


def test_what_a_provider_gains_is_tested(pytester: pytest.Pytester) -> None:
    """A failure that can be made, and a key, bring their tests with them; the line gets shorter."""
    code = """
class TestIt(ProviderContract):
    make_provider = lambda self: Least(Secret("sk-0123456789abcdef"))
    make_failing = lambda self, failure: Least("down") if failure == "unavailable" else None
"""
    found, told, counts = run(pytester, code)
    assert counts["passed"] == len(found)
    for test in ("test_raises_the_right_class[unavailable]", "test_a_failure_is_over_when_it_is_over"):
        assert found[test] == "PASSED"
    assert found["test_no_key_in_a_repr"] == found["test_no_key_in_anything[None]"] == "PASSED"
    assert "test_no_key_in_anything[unavailable]" not in found  # the one that fails has no key
    assert "silent" in told
    assert "bad_key" in told


def test_a_class_to_which_all_applies_is_not_named(pytester: pytest.Pytester) -> None:
    """With every part nothing is left out, and nothing is said."""
    code = """
class TestIt(ProviderContract):
    secret = "sk-0123456789abcdef"
    make_provider = lambda self: Scripted()
    make_failing = lambda self, failure: Scripted()
"""
    found, told, counts = run(pytester, code, "--collect-only", "-q")
    assert (found, told) == ({}, "")
    assert "deselected" not in counts


@pytest.mark.parametrize("raises", ["1 / 0", "pytest.skip('not today')", "pytest.fail('broken')"])
def test_a_provider_that_cannot_be_made_keeps_its_tests(pytester: pytest.Pytester, raises: str) -> None:
    """What `make_provider` raises is shown by the tests, and breaks no collection."""
    code = f"import pytest\nclass TestIt(ProviderContract):\n    make_provider = lambda self: {raises}\n"
    found, told, counts = run(pytester, code, "-k", "answers or health or key_in_a_repr")
    assert "passed" not in counts
    if "skip" in raises:
        assert counts["skipped"] >= 4  # the author's own skips
    else:
        assert {"test_answers", "test_tells_its_health", "test_no_key_in_a_repr"} <= set(found)
        assert "PASSED" not in found.values()
    assert "hook" not in told


def test_what_needs_a_fixture_is_told_when_it_does_not_apply(pytester: pytest.Pytester) -> None:
    """A class that can only build with its fixtures keeps all; one that does not apply fails and says so."""
    code = """
import pytest

class TestIt(ProviderContract):
    @pytest.fixture(autouse=True)
    def _known_later(self, tmp_path):
        self.provider = Least

    make_provider = lambda self: self.provider()
"""
    found, _, _ = run(pytester, code, "-k", "test_answers or key_in_a_repr")
    assert found == {
        "test_answers": "PASSED",
        "test_answers_through_the_router": "PASSED",
        "test_no_key_in_a_repr": "FAILED",
    }


def test_a_test_of_ones_own_says_what_it_needs(pytester: pytest.Pytester) -> None:
    """`needs` works for what a class adds; without it, a failure that cannot be made fails the test."""
    code = """
class TestIt(ProviderContract):
    make_provider = lambda self: Least()

    @needs("silent")
    def test_marked(self, make):
        make("silent")

    def test_unmarked(self, make):
        make("silent")
"""
    found, told, counts = run(pytester, code, "-k", "test_marked or test_unmarked")
    assert (found, counts["failed"]) == ({"test_unmarked": "FAILED"}, 1)
    assert "silent (1)" in told


def test_each_is_built_once_and_closed(pytester: pytest.Pytester) -> None:
    """Deciding builds a provider of each kind at most once for a class, and only what the chosen tests ask about."""
    code = """
built = []

class TestIt(ProviderContract):
    def make_provider(self):
        built.append("well")
        return Least()

    def make_failing(self, failure):
        built.append(failure)
        return Least("down")

    @needs("stream", "unavailable")
    def test_never(self): pass

    @needs("stream", "silent")
    def test_never_either(self): pass

    @needs("unavailable")
    def test_chosen(self):
        assert (built, len(closed)) == (["well", "unavailable"], 2)
"""
    found, _, counts = run(pytester, code, "-k", "test_never or test_chosen")
    assert (found, counts["passed"]) == ({"test_chosen": "PASSED"}, 1)


def test_over_http_nothing_is_asked(pytester: pytest.Pytester) -> None:
    """A provider without a stream is held to the rest of the HTTP contract; no server is started to tell."""
    code = """
class TestIt(HTTPProviderContract):
    make_provider = lambda self, url: Least(url)
"""
    _, told, counts = run(pytester, code, "--collect-only", "-q")
    assert "no hook stream (13)" in told
    assert "no hook health (3)" in told or "no hook health (4)" in told
    assert counts["deselected"] > 13


def test_costs_nothing_unless_used() -> None:
    """The plugin loads neither the contract nor the server for tests that do not ask for them."""
    code = (
        "import sys, pytest\n"
        "assert pytest.main(['--collect-only', '-qq', '-p', 'no:cacheprovider', '/dev/null']) in (0, 4, 5)\n"
        "print([m for m in sys.modules if m.startswith(('pointsman.testing.', 'requests', 'urllib3'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "['pointsman.testing.plugin']", done.stdout + done.stderr


def test_a_store_without_hooks_is_told_which_it_lacks(pytester: pytest.Pytester) -> None:
    """In one test with their names; `health` is nobody's duty."""
    code = """
from pointsman.content import Stored
from pointsman.testing import StoreContract


@frozen
class Box:
    @hookimpl
    def store(self, source, scope):
        return Stored("none", 0)

    @hookimpl
    def fetch(self, cid, offset, length, scope):
        return iter(())


class TestIt(StoreContract):
    make_store = lambda self: Box()
"""
    pytester.makepyfile(PROVIDERS + code)
    result = pytester.runpytest_inprocess(*OPTIONS, "-k", "its_hooks or health")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    lacking = "resolve, has, entries, extract, export_car, import_car, pin, unpin, verify"
    result.stdout.fnmatch_lines([f"*AssertionError: it has no hook {lacking}*", "*no hook health (1)*"])
