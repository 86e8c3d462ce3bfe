"""Rows 1 to 14: what goes wrong before any answer."""

from __future__ import annotations

from typing import Any

from .. import faults
from ..server import FaultServer
from ._play import BOTH, PLAIN, STREAMED, WELL, Run, case, falls_back, options, raises, recovers

for hinted, seconds in (
    (faults.rate_limited(1), 1.0),
    (faults.rate_limited(in_seconds=2), 0.5),  # dates have whole seconds
    (faults.rate_limited(60, retry_after_ms=300), 0.3),
    (faults.rate_limited(in_body=0.3), 0.3),
):
    recovers(1, [hinted, WELL], "RateLimitError", least_s=seconds)
falls_back(1, faults.rate_limited(30), "RateLimitError")
falls_back(2, faults.rate_limited(3600), "RateLimitError")
falls_back(3, faults.rate_limited(), "RateLimitError", tried=3, max_retries=2)
recovers(4, [faults.status(500), WELL], "UnavailableError")
for code, body in ((502, "html"), (503, "empty"), (504, "text"), (520, "html"), (529, "json")):
    kind: Any = body
    falls_back(5, faults.status(code, body=kind), "UnavailableError", tried=2)


@case(6, "refused, unknown host, no TLS", *BOTH)
def unreachable(run: Run) -> None:
    """Nobody there, no such host, no TLS: one attempt each, then the spare."""
    with faults.nobody_listens() as refused, FaultServer() as plain:
        for url in (refused, faults.UNRESOLVABLE_URL, plain.tls_url):
            on = run.stage(WELL, urls={"primary": url})
            run.ask()
            run.check_answer("Here speaks the spare.", "spare")
            run.check_failed("UnavailableError")
            run.check_circuit("open")
            on.close()


for broken in (faults.reset_on_connect(), faults.reset(), faults.reset("headers"), faults.hang_up()):
    falls_back(6, broken, "UnavailableError")
for slow in (faults.silent(), faults.drip(0.2)):
    falls_back(7, slow, "BackendTimeout", timeout=4.0)
    raises(7, slow, "BackendTimeout", timeout=1.5, spare=None, name=f"{slow.name}, no other backend")
falls_back(7, faults.silent(), "BackendTimeout", ways=STREAMED, timeout=30.0, limits={"first_token_timeout": 0.5})
falls_back(7, faults.drip(0.2, part="body"), "BackendTimeout", ways=PLAIN, limits={"timeout": 1.0})
for refused_key in (faults.bad_key(), faults.no_permission(), faults.bad_key_under_400()):
    falls_back(8, refused_key, "AuthenticationError")
for broke in (faults.no_money(), faults.no_quota()):
    falls_back(8, broke, "QuotaError")
falls_back(9, faults.unknown_model(), "ModelNotFoundError")
falls_back(9, faults.unknown_model(status=400), "ModelNotFoundError")
TOO_LONG = faults.context_too_long()
falls_back(10, TOO_LONG, "ContextLengthError", circuit="closed", windows={"primary": 4096, "spare": 128_000})
raises(10, TOO_LONG, "ContextLengthError", windows={"primary": 4096, "spare": 4096}, name="and no larger window")
raises(11, faults.content_filtered(), "ContentFilterError")
falls_back(11, faults.content_filtered(), "ContentFilterError", circuit="closed", on_refusal="next")


@case(12, "unsupported('temperature')", *BOTH)
def unsupported(run: Run) -> None:
    """Sent again without it; the next request does not have it; each answer warns of that."""
    on = run.stage(faults.unsupported("temperature"))
    for prompt, failed in (("Hello", ["InvalidRequestError"]), ("Again", [])):
        got = run.ask(prompt, temperature=0.5)
        run.check_answer(f"You said: {prompt}", "primary")
        run.check_failed(*failed)
        warned = [text for text in got.completion.warnings if "temperature" in text] if got.completion else []
        run.check(len(warned), 1, "warnings")
    run.check(["temperature" in options(seen) for seen in on.servers["primary"].asked], [True, False, False], "sent")
    run.check_circuit("closed")


for wrong in (faults.bad_request(), faults.bad_request(status=422), faults.bad_request(status=422, shape="detail")):
    raises(13, wrong, "InvalidRequestError")
for redirect in (faults.redirect(307), faults.redirect(302), faults.redirect(loop=True)):
    falls_back(14, redirect, "UnavailableError")
