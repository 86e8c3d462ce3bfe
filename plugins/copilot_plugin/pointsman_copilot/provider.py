"""The provider: what is copilot's own among the options, and how it is started."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from attrs import Factory, field, frozen
from pointsman import ModelInfo, Request
from pointsman_stdio import HEADERS, LINES, Exchange, Launch, Program, Protocol, Read, flat

from ._errors import WORDS
from ._wire import HELLO, Session, route, session

_TOKENS = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")
_QUIET = ("--no-auto-update", "--disable-client-telemetry", "--log-level", "none")
_SERVE = ("--headless", *_QUIET, "--stdio")
_ONCE = (
    *("--output-format", "json", "--silent", "--no-color", "--stream", "on", *_QUIET),
    *("--available-tools=none", "--no-custom-instructions", "--disable-builtin-mcps", "--no-ask-user"),
    *("--no-remote", "--no-remote-export"),
)
#: What of the user's configuration is a login, in small letters: its names, and those that hold a token.
_LOGIN, _HOLDS = ("authtokens", "copilottokens", "loggedinusers", "lastloggedinuser"), ("authtokens", "copilottokens")
#: Where the login is one of a GitHub of one's own.
_HOSTS = ("GH_HOST", "COPILOT_GH_HOST")
_WIRES = ("completions", "responses")


def _wire_api(provider: Any) -> Any:
    return (provider.of_environment and provider.environment("COPILOT_PROVIDER_WIRE_API")) or "completions"


@frozen(kw_only=True)
class Copilot(Program):
    """Asks models through the installed program copilot, which is given no tools and sees no files."""

    NAME, TESTED, HOME = "copilot", "1.0.102", "COPILOT_HOME"
    INSTALL, NATIVE = "npm install -g @github/copilot", "@github/copilot-*/copilot"
    KEYS: ClassVar[tuple[str, ...]] = _TOKENS
    URL, URL_KEY, MODEL = "COPILOT_PROVIDER_BASE_URL", "COPILOT_PROVIDER_API_KEY", "COPILOT_MODEL"
    EXTRA: ClassVar[frozenset[str]] = frozenset({"contextTier", "reasoningSummary"})
    WORDS = WORDS

    #: Which of OpenAI's two APIs `base_url` speaks.
    wire_api: Literal["completions", "responses"] = Factory(_wire_api, takes_self=True)
    #: Where copilot unpacks itself, once (230 MB).
    cache: str = field(factory=lambda: Program.environment("COPILOT_CACHE_HOME") or "~/.cache/copilot")

    def problem(self) -> str:
        """Return what is wrong with the options ("" if nothing)."""
        if (problem := super().problem()) or self.base_url is None:
            return problem
        if self.wire_api not in _WIRES:
            return f"wire_api: found {self.wire_api!r}, expected {' or '.join(_WIRES)}"
        kind = self.environment("COPILOT_PROVIDER_TYPE") if self.of_environment else None
        if kind not in (None, "openai"):
            return f"COPILOT_PROVIDER_TYPE: found {kind!r}, and only openai is asked through copilot"
        return "" if self.model else "no model: with base_url, set the option model, or COPILOT_MODEL"

    @property
    def always(self) -> Mapping[str, str]:
        """Where it unpacks itself."""
        return {"COPILOT_CACHE_HOME": os.path.expanduser(self.cache), "COPILOT_AUTO_UPDATE": "false"}

    def unsupported(self, request: Request) -> frozenset[str]:
        """Return the options that it has no way to pass on, whatever the model."""
        lost = super().unsupported(request) - ({"max_tokens"} if self.base_url else set())
        no_effort = request.reasoning_effort == "none" and self.base_url and self.wire_api == "completions"
        return lost | {"reasoning_effort"} if no_effort else lost

    def protocol(self) -> Protocol:
        """Return that of `copilot --headless --stdio`."""
        login = ("--no-auto-login",) if self.base_url else ()
        prepare = lambda folder, ask: self._launch(folder, self.model, (*_SERVE, *login))  # noqa: E731
        return Protocol("copilot", HEADERS, prepare, self.refusal, hello=HELLO, route=route)

    def turn(self, exchange: Exchange, request: Request) -> Read:
        """Ask over the server."""
        return session(exchange, request, self._provider())

    def alone(self, request: Request) -> tuple[Protocol, Read, tuple[str, ...]]:
        """Return how copilot is asked once."""
        text, warnings = flat(request, "copilot", system=True)
        prepare = lambda folder, ask: self._once(folder, request)  # noqa: E731
        return Protocol("copilot", LINES, prepare, self.refusal, input=text.encode()), Session(dict, None), warnings

    def listed(self, exchange: Exchange) -> Sequence[ModelInfo]:
        """Return the models that GitHub offers to this login."""
        return [ModelInfo(model["id"]) for model in exchange.call("models.list", {})["models"]]

    def login(self) -> str:
        """Look for the user's login."""
        if any(value for name, value in self._logins().items() if _small(name) in _HOLDS):
            return ""
        return f"copilot is not logged in (no login in {self.home}/config.json): copilot login, or {_TOKENS[0]}"

    def _provider(self) -> dict[str, Any] | None:
        if self.base_url is None:
            return None
        provider = {"type": "openai", "baseUrl": self.base_url, "wireApi": self.wire_api}
        return {**provider, **({"apiKey": self.api_key} if self.api_key else {})}

    def _logins(self) -> dict[str, Any]:
        """Return what of the user's configuration is a login."""
        try:
            text = (Path(os.path.expanduser(self.home)) / "config.json").read_text(encoding="utf-8-sig")
            found = json.loads("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//")))
        except (OSError, ValueError):
            return {}
        facts = found.items() if isinstance(found, dict) else ()
        return {name: value for name, value in facts if _small(name) in _LOGIN}

    def _once(self, folder: Path, request: Request) -> Launch:
        effort = ("--reasoning-effort", request.reasoning_effort) if request.reasoning_effort else ()
        launch = self._launch(folder, request.model, (*_ONCE, *effort))
        limits = {"COPILOT_PROVIDER_MAX_OUTPUT_TOKENS": str(request.max_tokens)} if request.max_tokens else {}
        if self.base_url is not None:  # of a model that it knows, copilot would keep a limit of its own
            limits |= {"COPILOT_PROVIDER_MODEL_ID": "pointsman", "COPILOT_PROVIDER_WIRE_MODEL": request.model or ""}
        return Launch(launch.command, {**launch.environment, **limits})

    def _launch(self, folder: Path, model: str | None, arguments: Sequence[str]) -> Launch:
        program = self.ready()
        config = {} if self.base_url or self.api_key else self._logins()
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "settings.json").write_text(json.dumps({"disableAllHooks": True}), encoding="utf-8")
        named = {"COPILOT_MODEL": model} if model else {}
        return Launch((program, *arguments), {**self._environment(folder), **named})

    def _environment(self, folder: Path) -> Mapping[str, str]:
        environment = {**self.always, "COPILOT_HOME": str(folder), "COPILOT_DISABLE_KEYTAR": "1", "NO_COLOR": "1"}
        key = self.api_key.reveal() if self.api_key else None
        if self.base_url is None:
            hosts = {name: os.environ[name] for name in _HOSTS if name in os.environ}
            return {**environment, **hosts, **({_TOKENS[0]: key} if key else {})}
        environment |= {"COPILOT_OFFLINE": "true", "COPILOT_PROVIDER_BASE_URL": self.base_url}
        environment["COPILOT_PROVIDER_WIRE_API"] = self.wire_api
        environment["COPILOT_PROVIDER_MAX_PROMPT_TOKENS"] = "1000000000"
        return {**environment, **({"COPILOT_PROVIDER_API_KEY": key} if key else {})}


def _small(name: str) -> str:
    return name.replace("_", "").lower()
