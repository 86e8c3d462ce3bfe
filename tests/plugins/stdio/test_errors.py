"""What the real programs say when the service fails, and that they ask it once: the same rules for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from pointsman import (
    AuthenticationError,
    BackendError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    QuotaError,
    RateLimitError,
    ToolCall,
    UnavailableError,
    UnusableAnswer,
)
from pointsman.testing import FaultServer, WireError, faults

pytestmark = pytest.mark.programs

#: How often a server that fails at once may be asked: copilot may have begun again before we could end it.
_ONCE = {"codex": 1, "copilot": 2, "copilot responses": 2}
KEY = "sk-0123456789abcdefghij"


def error(code: str | None, message: str, status: int = 400) -> Any:
    """A fault: an error object under a status."""
    return faults.status(status, WireError(message, "x", code, None, status))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.bad_key(), AuthenticationError),
        (faults.no_permission(), AuthenticationError),
        (faults.bad_key_under_400(), AuthenticationError),
        (faults.no_money(), QuotaError),
        (faults.no_quota(), QuotaError),
        (faults.rate_limited(), RateLimitError),
        (faults.rate_limited(3600), RateLimitError),
        (faults.unknown_model(), ModelNotFoundError),
        (faults.context_too_long(), ContextLengthError),
        (faults.content_filtered(), ContentFilterError),
        (faults.bad_request(), InvalidRequestError),
        (faults.status(400, body="text"), InvalidRequestError),
        (error("invalid_image", "The image data you provided does not represent a valid image"), InvalidRequestError),
        (faults.status(500), UnavailableError),
        (faults.status(502, body="html"), UnavailableError),
        (faults.status(503), UnavailableError),
        (faults.status(504, body="empty"), UnavailableError),
        (faults.reset(), UnavailableError),
        (faults.reset("headers"), UnavailableError),
        (faults.hang_up(), UnavailableError),
        (faults.reset("body"), UnusableAnswer),
        (faults.html(), UnusableAnswer),
        (faults.plain_text(), UnusableAnswer),
        (faults.empty_body(), UnusableAnswer),
        (faults.cut_json(), UnusableAnswer),
        (faults.wrong_length(), UnusableAnswer),
        (faults.empty_stream(), UnusableAnswer),
        (faults.empty_stream("done"), UnusableAnswer),
        (faults.cut_after(3), UnusableAnswer),
        (faults.cut_after(3, silently=True), UnusableAnswer),
        (faults.no_finish(), UnusableAnswer),
        (faults.safety_stop(), ContentFilterError),
        (faults.safety_stop("Half of it"), ContentFilterError),
    ],
    ids=repr,
)
def test_a_failure_has_its_class(kind: Any, fault: Any, expected: type[BackendError]) -> None:
    """Each failure of the service is the class that says what follows, and never looks like an answer."""
    found, asked = kind.played(fault)
    assert type(found) is expected, found
    assert not found.message.startswith(f"{kind.name}: {kind.name}")
    assert asked <= _ONCE[kind.name]


@pytest.mark.parametrize("loop", [False, True])
def test_redirects_end(kind: Any, loop: bool) -> None:
    """Row 14: the programs follow a redirect on the same host; where that does not end, nobody asks again."""
    found, _ = kind.played(faults.redirect(loop=loop))
    assert type(found) is UnavailableError
    assert not found.retry_same


def test_nobody_listens(program: Any, made: Callable[..., Any]) -> None:
    """Row 6: a port that refuses is unavailable, and told at once."""
    with faults.nobody_listens() as url, pytest.raises(UnavailableError):
        program.answered(program.asking(), made(program, base_url=url))


def test_an_answer_that_was_cut_by_length(kind: Any) -> None:
    """An answer that ran into its limit has the finish reason `length` and its tokens, and no rest is asked for."""
    # Whoever asks again is left waiting: how often it would in the moment until it is ended is a matter of luck.
    answer, asked = kind.played([faults.length("Once upon a"), faults.silent()])
    assert (answer.text, answer.finish_reason) == ("Once upon a", "length")
    assert answer.raw_finish_reason in ("length", "max_output_tokens"), "the word of the service"
    assert answer.usage.output_tokens == 8
    assert asked <= _ONCE[kind.name]


def test_the_failure_of_a_model(kind: Any) -> None:
    """An answer that ends with an error is none, and what it cost is kept where the program tells it."""
    found, asked = kind.played(faults.finish_error())
    assert isinstance(found, UnusableAnswer | UnavailableError)
    assert asked <= _ONCE[kind.name]
    assert kind.name != "copilot" or found.usage.output_tokens == 8


@pytest.mark.parametrize("name", ["codex", "copilot"])
def test_a_refusal_is_one(kinds: Callable[[str], Any], name: str) -> None:
    """A refusal is no empty answer; codex hides its words, and copilot, over the Responses API, that it is one."""
    found, _ = kinds(name).played(faults.refusal())
    assert isinstance(found, ContentFilterError)
    assert "refused" in found.message


def test_an_empty_answer_is_left_to_the_router(kind: Any) -> None:
    """Nothing, or nothing but white space, is handed on as it is: what counts as an answer, the router says."""
    for fault in (faults.null_content(), faults.whitespace()):
        answer, _ = kind.played(fault)
        assert not answer.text.strip()
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("usage_at", ["after", "nowhere"])
def test_a_model_that_asks_for_a_tool_gets_none(kind: Any, usage_at: Any, tmp_path: Any) -> None:
    """Calls of a shell and of a patch run nothing, and the model is asked once; the answer is none."""
    ran = tmp_path / "ran"
    patch = f"*** Begin Patch\n*** Add File: {ran}\n+x\n*** End Patch"
    for name, arguments in (
        ("exec_command", f'{{"cmd": "touch {ran}"}}'),
        ("bash", f'{{"command": "touch {ran}", "description": "d"}}'),
        ("shell", f'{{"command": ["touch", "{ran}"]}}'),
        ("apply_patch", f'{{"input": {patch!r}}}'),
    ):
        call = ToolCall("1", name, arguments)
        found, asked = kind.played(faults.well(tool_calls=(call,), usage_at=usage_at, gap=0.02))
        assert isinstance(found, UnusableAnswer)
        assert "asked for a tool" in found.message
        assert asked == 1
    assert not ran.exists()


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("rate_limit_exceeded", "Rate limit reached. Please try again in 7.5s.", RateLimitError),
        ("insufficient_quota", "You exceeded your quota", QuotaError),
        ("context_length_exceeded", "too long", ContextLengthError),
        ("invalid_prompt", "Invalid prompt: flagged", ContentFilterError),
        ("cyber_policy", "no", ContentFilterError),
        ("server_is_overloaded", "Overloaded", UnavailableError),
    ],
)
@pytest.mark.parametrize("name", ["codex", "copilot responses"])
def test_an_error_in_place_of_an_answer(
    kinds: Callable[[str], Any], name: str, code: str, message: str, expected: type[BackendError]
) -> None:
    """Row 16: an answer that failed is what its code says, with the time to wait that stands in its sentence."""
    found, asked = kinds(name).played(failed(code, message))
    assert type(found) is expected
    assert found.retry_after == (7.5 if "7.5" in message else None)
    assert asked <= _ONCE[name]


def failed(code: str, message: str) -> Any:
    """A fault: a streamed response that begins, and has failed."""

    async def play(x: Any) -> None:
        (first, *_, last) = x.wire.events(x.ask.answer(), x.ask)
        last.data["type"] = "response.failed"
        last.data["response"] |= {"status": "failed", "error": {"code": code, "message": message}, "usage": None}
        await x.begin_stream()
        await x.events([first, last])
        await x.end_stream()

    return faults.Fault(f"failed({code})", play)


@pytest.mark.parametrize("status", [400, 401, 500])
def test_no_key_that_the_service_echoes_is_seen(kind: Any, status: int) -> None:
    """A key in an error of the service is masked in the message, and in the traceback with its local variables."""
    for fault in (error(None, f"bad key {KEY}", status), error(KEY, KEY, status)):
        found, _ = kind.played(evolve(fault, name="an echo"))
        assert KEY not in kind.shown(found)


@pytest.mark.parametrize("key", ["topsecret0\ntwosecret0", "schl\u00fcssel-0123456789", "tabtabtab\there-0123456789"])
def test_a_key_that_no_header_carries_is_refused(program: Any, made: Callable[..., Any], key: str) -> None:
    """A key with a line break or a foreign letter is told before anything is asked, and shown nowhere."""
    provider = made(program, api_key=key)
    assert "no header can carry" in provider.missing
    assert provider.health().status == "unconfigured"
    with pytest.raises(AuthenticationError, match="api_key") as caught:
        program.answered(program.asking(), provider)
    assert not any(part in program.shown(caught.value) + provider.missing for part in key.split())


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@127.0.0.1/v1", "http://127.0.0.1/v1?key=hunter2", "hunter2", "file:///x?hunter2"]
)
def test_an_address_with_a_secret_is_refused(program: Any, made: Callable[..., Any], url: str) -> None:
    """An address with a user, a password or a query is told before anything is asked, and shown nowhere."""
    provider = made(program, base_url=url)
    assert "expected http(s)://HOST" in provider.missing
    with pytest.raises(BackendError, match="base_url") as caught:
        program.answered(program.asking(), provider)
    assert "hunter2" not in program.shown(caught.value) + provider.missing + repr(provider)


def test_the_models_of_another_server_are_not_ours(program: Any) -> None:
    """With `base_url`, the program would list its own service's models: that is refused, in words."""
    with pytest.raises(BackendError, match="does not list the models of base_url"):
        program.warm.list_models()


def test_a_post_that_was_redirected_has_no_key(program: Any) -> None:
    """Row 14: where the program follows a redirect to another host, no key goes with it."""
    with FaultServer() as other:
        program.played(faults.redirect(to=f"http://localhost:{other.port}/v1/responses"))
        assert not any(seen.key for seen in other.log)
