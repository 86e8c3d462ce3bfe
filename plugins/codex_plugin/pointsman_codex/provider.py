"""The provider: options of a user, hooks of the router."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pointsman_stdio as stdio
from attrs import field, frozen
from pointsman import AuthenticationError, Chunk, Health, ModelInfo, Request, Scope, Secret, hookimpl
from pointsman import UnavailableError as Unavailable
from pointsman.service import as_secret
from pointsman.values import DROPPABLE

from ._home import Home
from ._turn import HELLO, as_input, one_shot, route, turn

_NATIVE = "@openai/codex-*/vendor/*/bin/codex"
_STRICT = "--strict-config"
_EXEC = ("exec", "--json", "--ephemeral", "--skip-git-repo-check", "--ignore-rules", _STRICT, "--color", "never")
_ASK_S = 10.0


@frozen(kw_only=True)
class Codex:
    """Asks OpenAI's models through the installed program codex, which is given no tools and sees no files.

    Thread-safe: one process, started by the first call, serves all requests, many at once.
    """

    model: str | None = None  #: without it, codex chooses
    #: A server that speaks OpenAI's Responses API. It gets no key but the option's, and never the login.
    base_url: str | None = None
    #: Without it: CODEX_API_KEY, else the user's login (`codex login`).
    api_key: Secret | None = field(converter=as_secret)
    program: str = "codex"  #: its name in the PATH, or its path
    #: The user's own folder of codex, of which only the login is used (environment: CODEX_HOME).
    home: str = field(factory=lambda: os.environ.get("CODEX_HOME") or str(Path.home() / ".codex"))

    _keeper: stdio.Keeper = field(init=False, repr=False, eq=False)

    capabilities: ClassVar[frozenset[str]] = frozenset({"schema", "images"})

    @api_key.default
    def _key_of_environment(self) -> str | None:
        return os.environ.get("CODEX_API_KEY") if self.base_url is None else None

    @_keeper.default
    def _make_keeper(self) -> stdio.Keeper:
        return stdio.Keeper(stdio.Protocol("codex", stdio.LINES, self._serving, hello=HELLO, route=route))

    @property
    def missing(self) -> str:
        """What a person must do before anything can be asked: "" if nothing. Starts nothing."""
        if os.name != "posix":
            return "codex is asked on Linux and macOS only"
        if not self._found:
            return f"no program {self.program!r}: npm install -g @openai/codex, or set the option program"
        if self.api_key is None and self.base_url is None and not self._login.exists():
            return f"codex is not logged in ({self._login} is not there): codex login, or set api_key (CODEX_API_KEY)"
        return ""

    def unsupported(self, request: Request) -> Collection[str]:
        """Return the options that codex has no way to pass on, whatever the model."""
        return DROPPABLE | {"max_tokens", "stop"}

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        """Answer the request in pieces."""
        request = request.changed({"model": request.model or self.model})
        if not self._keeper.refused:
            try:
                with stdio.Exchange(self._keeper.server(), request.scope) as exchange:
                    yield from turn(exchange, request)
                    return
            except stdio.ProtocolRefused:  # nothing has been asked yet
                self._keeper.refused = True
        alone = stdio.Protocol("codex", stdio.LINES, lambda home: self._alone(home, request), input=as_input(request))
        with stdio.once(alone, request.scope) as exchange:
            yield from one_shot(exchange)

    @hookimpl
    def health(self) -> Health:
        """Say whether codex is installed, runs, and has a key or a login. Asks nobody whether that is valid."""
        return stdio.health_of(self._found, self.missing)

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Return the models that this version of codex knows."""
        with stdio.Exchange(self._keeper.server(), Scope(_ASK_S)) as exchange:
            try:
                return [ModelInfo(model["id"]) for model in exchange.call("model/list", {})["data"]]
            except (stdio.RefusedCall, KeyError, TypeError) as error:
                raise Unavailable(f"codex does not list its models: {error}") from error

    @hookimpl
    def close(self) -> None:
        """End the process. A later call starts a new one."""
        self._keeper.close()

    @property
    def _found(self) -> str:
        return stdio.find(self.program, _NATIVE)

    @property
    def _login(self) -> Path:
        return Path(self.home).expanduser() / "auth.json"

    def _serving(self, folder: Path) -> stdio.Launch:
        return self._home().launch(folder, self.model, ("app-server", _STRICT))

    def _alone(self, folder: Path, request: Request) -> stdio.Launch:
        command = [*_EXEC, *(("--model", request.model) if request.model else ())]
        options = {"developer_instructions": request.system, "model_reasoning_effort": request.reasoning_effort}
        if request.schema is not None:
            path = folder / "schema.json"
            path.write_text(json.dumps(request.schema), encoding="utf-8")
            command += ["--output-schema", str(path)]
        config = {name: value for name, value in options.items() if value}
        return self._home().launch(folder, request.model, (*command, "-"), **config)

    def _home(self) -> Home:
        if missing := self.missing:
            raise AuthenticationError(missing) if self._found else Unavailable(missing, retry_same=False)
        return Home(self._found, self.base_url, self.api_key, self._login)
