"""The first backend is dead; the spare answers, and the caller sees only the answer."""

import socket

from pointsman import Router

# A port of this machine where nobody listens, as if the service were down.
nobody = socket.socket()
nobody.bind(("127.0.0.1", 0))

CONFIGURATION = {
    "BACKENDS": [
        {
            "id": "main",
            "type": "openai",
            "model": "gpt-4o-mini",
            "base_url": f"http://127.0.0.1:{nobody.getsockname()[1]}/v1",
            "priority": 10,
        },
        {"id": "spare", "type": "local", "priority": 90},
    ],
}

with nobody, Router.from_config(CONFIGURATION) as router:
    for question in ("Say hello to Anna.", "Say hello to Boris."):
        answer = router.generate(question, max_tokens=24)
        print(f"{answer.backend} answered: {answer.text}")
        for attempt in answer.attempts:
            print(f"    {attempt.backend:6} {attempt.outcome:9} {attempt.error or ''}")

    # The first call has shown that `main` is down, so the second did not wait for it.
    for place in router.order():
        print(place.position or "-", place.backend.id, place.reason)
