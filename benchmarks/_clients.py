"""The clients that `http_call.py` compares, each in a process of its own.

    python _clients.py NAME URL    reads a number of calls from each line, prints CPU seconds and wall seconds

Every one sends the same conversation over one kept connection and hands out the text of the answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from time import perf_counter, process_time
from typing import Any

MODEL = "bench-1"
PROMPT = "Summarise in one sentence: " + "there is mould in the bathroom, and the landlord does not answer. " * 8
MESSAGES = [{"role": "user", "content": PROMPT}]
BODY = {"model": MODEL, "messages": MESSAGES, "max_tokens": 128, "temperature": 0.7}
KEY = "a-key-for-loopback"


def _text(data: Any) -> str:
    return str(data["choices"][0]["message"]["content"])


def with_requests(url: str) -> Callable[[], str]:
    """Return a call of a bare session of requests."""
    import requests

    session = requests.Session()
    headers = {"Authorization": f"Bearer {KEY}"}
    return lambda: _text(session.post(f"{url}/chat/completions", json=BODY, headers=headers, timeout=60).json())


def with_urllib3(url: str) -> Callable[[], str]:
    """Return a call of a bare pool of urllib3."""
    import urllib3

    pool = urllib3.PoolManager()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

    def call() -> str:
        body = json.dumps(BODY).encode()
        return _text(json.loads(pool.request("POST", f"{url}/chat/completions", body=body, headers=headers).data))

    return call


def with_openai(url: str) -> Callable[[], str]:
    """Return a call of OpenAI's own package."""
    import openai

    client: Any = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    return lambda: str(client.chat.completions.create(**BODY).choices[0].message.content)


def with_huggingface_hub(url: str) -> Callable[[], str]:
    """Return a call of Hugging Face's own package."""
    from huggingface_hub import InferenceClient

    client: Any = InferenceClient(base_url=url, api_key=KEY)
    asked = {name: value for name, value in BODY.items() if name != "model"}
    return lambda: str(client.chat_completion(**asked).choices[0].message.content)


def with_anthropic(url: str) -> Callable[[], str]:
    """Return a call of Anthropic's own package."""
    import anthropic

    client: Any = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=KEY, max_retries=0)
    asked = {name: value for name, value in BODY.items() if name != "temperature"}
    return lambda: str(client.messages.create(**asked).content[0].text)


def with_google_genai(url: str) -> Callable[[], str]:
    """Return a call of Google's own package."""
    from google import genai

    options: Any = {"base_url": url.removesuffix("/v1")}
    client: Any = genai.Client(api_key=KEY, http_options=options)
    config = {"max_output_tokens": BODY["max_tokens"], "temperature": BODY["temperature"]}
    return lambda: str(client.models.generate_content(model=MODEL, contents=PROMPT, config=config).text)


def with_pointsman(url: str, plugin: str = "openai:OpenAI", spares: int = 0) -> Callable[[], str]:
    """Return a call through our router to a plugin's provider, with so many more behind the first."""
    from pointsman import Router

    package, _, name = plugin.partition(":")
    make = getattr(import_module(f"pointsman_{package}"), name)
    router = Router({f"b{n}": make(model=MODEL, base_url=url, api_key=KEY) for n in range(1 + spares)})
    return lambda: router.generate(PROMPT, max_tokens=128, temperature=0.7).text


def with_litellm(url: str) -> Callable[[], str]:
    """Return a call through LiteLLM's router."""
    import litellm

    litellm.telemetry = False
    parameters = {"model": f"openai/{MODEL}", "api_base": url, "api_key": KEY}
    router = litellm.Router(model_list=[{"model_name": MODEL, "litellm_params": parameters}])
    return lambda: str(router.completion(**BODY).choices[0].message.content)


CLIENTS: dict[str, Callable[[str], Callable[[], str]]] = {
    "requests": with_requests,
    "urllib3": with_urllib3,
    "pointsman": with_pointsman,
    "pointsman, 3 backends": lambda url: with_pointsman(url, spares=2),
    "pointsman, openrouter": lambda url: with_pointsman(url, "openrouter:OpenRouter"),
    "pointsman, hf": lambda url: with_pointsman(url, "hf:HuggingFace"),
    "pointsman, claude": lambda url: with_pointsman(url, "claude:Claude"),
    "pointsman, gemini": lambda url: with_pointsman(url, "gemini:Gemini"),
    "openai package": with_openai,
    "huggingface_hub package": with_huggingface_hub,
    "anthropic package": with_anthropic,
    "google.genai package": with_google_genai,
    "litellm": with_litellm,
}


def _main(name: str, url: str) -> None:
    call = CLIENTS[name](url)
    for line in sys.stdin:
        cpu, wall = process_time(), perf_counter()
        for _ in range(int(line)):
            if not call():
                raise SystemExit(f"{name}: the answer is empty")
        print(process_time() - cpu, perf_counter() - wall, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
