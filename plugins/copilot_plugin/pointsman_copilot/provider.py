"""The provider: options of a user, hooks of the router."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pointsman_stdio as stdio
from attrs import field, frozen
from pointsman import AuthenticationError, Chunk, Health, ModelInfo, Request, Scope, Secret, hookimpl
from pointsman import InvalidRequestError as Invalid
from pointsman import UnavailableError as Unavailable
from pointsman.service import as_secret
from pointsman.values import DROPPABLE

from ._session import HELLO, as_text, one_shot, route, session

_NATIVE = "@github/copilot-*/copilot"
_TOKENS = ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN")
_QUIET = ("--no-auto-update", "--log-level", "none")
_SERVE = ("--headless", *_QUIET, "--stdio")
_ONCE = (
    *("--output-format", "json", "--silent", "--no-color", "--stream", "on", *_QUIET),
    *("--available-tools=none", "--no-custom-instructions", "--disable-builtin-mcps", "--no-ask-user"),
    *("--disable-client-telemetry", "--no-remote", "--no-remote-export"),
)
_ASK_S = 10.0
#: What of the user's configuration is a login.
_LOGIN = re.compile("log(ged)?_?in|token|auth", re.I)


@frozen(kw_only=True)
class Copilot:
    """Asks models through the installed program copilot, which is given no tools and sees no files.

    Thread-safe: one process, started by the first call, serves all requests, many at once.
    """

    model: str | None = None  #: without it, copilot chooses; needed with `base_url`
    #: A server that speaks OpenAI's API, in place of GitHub's. It gets no key but the option's, and never the login.
    base_url: str | None = None
    #: Of `base_url`; else a token of GitHub: COPILOT_GITHUB_TOKEN, GH_TOKEN, GITHUB_TOKEN, else the user's login.
    api_key: Secret | None = field(converter=as_secret)
    wire_api: Literal["completions", "responses"] = "completions"  #: which of OpenAI's two APIs `base_url` speaks
    program: str = "copilot"  #: its name in the PATH, or its path
    #: The user's own folder of copilot, of which only the login is used (environment: COPILOT_HOME).
    home: str = field(factory=lambda: os.environ.get("COPILOT_HOME") or str(Path.home() / ".copilot"))
    #: Where copilot unpacks itself, once (230 MB).
    cache: str = field(factory=lambda: os.environ.get("COPILOT_CACHE_HOME") or str(Path.home() / ".cache" / "copilot"))

    _keeper: stdio.Keeper = field(init=False, repr=False, eq=False)

    capabilities: ClassVar[frozenset[str]] = frozenset()

    @api_key.default
    def _key_of_environment(self) -> str | None:
        if self.base_url is not None:
            return None
        return next((os.environ[name] for name in _TOKENS if os.environ.get(name)), None)

    @_keeper.default
    def _make_keeper(self) -> stdio.Keeper:
        return stdio.Keeper(stdio.Protocol("copilot", stdio.HEADERS, self._serving, hello=HELLO, route=route))

    @property
    def missing(self) -> str:
        """What a person must do before anything can be asked: "" if nothing. Starts nothing."""
        if os.name != "posix":
            return "copilot is asked on Linux and macOS only"
        if not self._found:
            return f"no program {self.program!r}: npm install -g @github/copilot, or set the option program"
        if self.base_url is not None:
            return "" if self.model else "no model: with base_url, set the option model"
        if self.api_key is None and not self._login():
            return f"copilot is not logged in (no login in {self.home}/config.json): copilot login, or {_TOKENS[0]}"
        return ""

    def unsupported(self, request: Request) -> Collection[str]:
        """Return the options that copilot has no way to pass on, whatever the model."""
        return DROPPABLE | ({"stop"} if self.base_url else {"stop", "max_tokens"})

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer the request in pieces."""
        request = request.changed({"model": request.model or self.model})
        if not self._keeper.refused:
            try:
                with stdio.Exchange(self._keeper.server(), request.scope) as exchange:
                    yield from _limited(exchange, session(exchange, request, self._provider()))
                    return
            except stdio.ProtocolRefused:  # nothing has been asked yet
                self._keeper.refused = True
        try:
            text = as_text(request, system=True).encode()
        except UnicodeEncodeError:
            raise Invalid("the request has a lone surrogate: it is no valid text") from None
        alone = stdio.Protocol("copilot", stdio.LINES, lambda home: self._alone(home, request), input=text)
        with stdio.once(alone, request.scope) as exchange:
            yield from _limited(exchange, one_shot(exchange))

    @hookimpl
    def health(self) -> Health:
        """Say whether copilot is installed, runs, and has a server or a login. Asks nobody whether that is valid."""
        environment = {**stdio.surroundings(Path(self._cache)), "COPILOT_CACHE_HOME": self._cache}
        return stdio.health_of(self._found, self.missing, environment)

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return the models that GitHub offers to this login."""
        with stdio.Exchange(self._keeper.server(), Scope(_ASK_S)) as exchange:
            try:
                return [ModelInfo(model["id"]) for model in exchange.call("models.list", {})["models"]]
            except (stdio.RefusedCall, KeyError, TypeError) as error:
                raise Unavailable(f"copilot does not list its models: {error}") from error

    @hookimpl
    def close(self) -> None:
        """End the process. A later call starts a new one."""
        self._keeper.close()

    @property
    def _found(self) -> str:
        return stdio.find(self.program, _NATIVE)

    @property
    def _cache(self) -> str:
        return str(Path(self.cache).expanduser())

    def _provider(self) -> dict[str, Any] | None:
        if self.base_url is None:
            return None
        provider = {"type": "openai", "baseUrl": self.base_url, "wireApi": self.wire_api}
        return {**provider, **({"apiKey": self.api_key} if self.api_key else {})}

    def _login(self) -> dict[str, Any]:
        """Return what of the user's configuration is a login."""
        try:
            found = json.loads((Path(self.home).expanduser() / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {name: value for name, value in found.items() if _LOGIN.search(name) and value}

    def _serving(self, folder: Path) -> stdio.Launch:
        return self._launch(folder, self.model, (*_SERVE, *(("--no-auto-login",) if self.base_url else ())))

    def _alone(self, folder: Path, request: Request) -> stdio.Launch:
        effort = ("--reasoning-effort", request.reasoning_effort) if request.reasoning_effort else ()
        launch = self._launch(folder, request.model, (*_ONCE, *effort))
        limit = {"COPILOT_PROVIDER_MAX_OUTPUT_TOKENS": str(request.max_tokens)} if request.max_tokens else {}
        return stdio.Launch(launch.command, {**launch.environment, **limit})

    def _launch(self, folder: Path, model: str | None, arguments: Sequence[str]) -> stdio.Launch:
        if missing := self.missing:
            raise AuthenticationError(missing) if self._found else Unavailable(missing, retry_same=False)
        config = {} if self.base_url or self.api_key else self._login()
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (folder / "settings.json").write_text(json.dumps({"disableAllHooks": True}), encoding="utf-8")
        key = self.api_key.reveal() if self.api_key else None
        environment = {
            "COPILOT_HOME": str(folder),
            "COPILOT_CACHE_HOME": self._cache,
            "COPILOT_AUTO_UPDATE": "false",
            "NO_COLOR": "1",
            **({"COPILOT_MODEL": model} if model else {}),
        }
        if self.base_url is not None:
            environment |= {"COPILOT_OFFLINE": "true", "COPILOT_PROVIDER_BASE_URL": self.base_url}
            environment["COPILOT_PROVIDER_WIRE_API"] = self.wire_api
            environment["COPILOT_PROVIDER_MAX_PROMPT_TOKENS"] = "1000000000"
            environment |= {"COPILOT_PROVIDER_API_KEY": key} if key else {}
        elif key:
            environment[_TOKENS[0]] = key
        return stdio.Launch((self._found, *arguments), environment)


def _limited(exchange: stdio.Exchange, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    for chunk in chunks:
        if chunk.text:
            exchange.content_seen()
        yield chunk
