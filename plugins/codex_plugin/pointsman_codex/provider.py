"""The provider: what is codex's own among the options, and how it is started.

It gets a home of its own, in which nothing is but what we put there, and no tool. Keys of the configuration and of the
catalogue of models: codex 0.169.0, of November 2026. A version that does not know one of them ends at once
(`--strict-config`), rather than do what nobody allowed it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve, frozen
from pointsman import ModelInfo, Request, UnavailableError
from pointsman.values import Capability
from pointsman_stdio import LINES, Ask, Exchange, Launch, Program, Protocol, Read, flat, refuses_arguments

from ._errors import WORDS
from ._wire import HELLO, Alone, route, turn

_STRICT = "--strict-config"
_EXEC = ("exec", "--json", "--ephemeral", "--skip-git-repo-check", "--ignore-rules", _STRICT, "--color", "never")
_KEY = "POINTSMAN_CODEX_KEY"
#: No limit that codex would keep by itself: it would rewrite what was said before.
_ENDLESS = 1 << 40
_CONFIG = Path(__file__).with_name("config.toml")
#: Of each model: without these, codex offers it tools whatever the configuration says.
_TOOLLESS: Mapping[str, Any] = {
    **dict.fromkeys(("apply_patch_tool_type", "model_messages", "multi_agent_version")),
    **dict.fromkeys(("auto_compact_token_limit", "context_window", "max_context_window"), _ENDLESS),
    "base_instructions": "",
    "experimental_supported_tools": [],
    "node_repl_disabled": True,
    "shell_type": "disabled",
    "supports_search_tool": False,
    "tool_mode": "direct",
}
#: Of a model that codex does not know: else it would get the instructions of a coding agent.
_PLAIN: Mapping[str, Any] = {
    **dict.fromkeys(("default_reasoning_level", "default_verbosity")),
    "supported_reasoning_levels": [],
    "support_verbosity": False,
    "use_responses_lite": False,
}
#: What the machine's owner has configured for everybody's codex; its server says so by itself.
_MANAGED = (Path("/etc/codex/config.toml"), Path("/etc/codex/managed_config.toml"))
_NOT_A_LOGIN = ("auth_mode", "last_refresh")
#: `codex exec` asks again and again where a model asks for a tool, and says so nowhere else.
_LOG, _ALARM = "off,codex_core::stream_events_utils=info", "stream_events_utils: ToolCall:"
#: Its log of what happened grows by 37 KB with every turn.
_TURNS = 1000


@frozen(kw_only=True)
class Codex(Program):
    """Asks OpenAI's models through the installed program codex, which is given no tools and sees no files."""

    NAME, TESTED, HOME = "codex", "0.169.0", "CODEX_HOME"
    INSTALL, NATIVE = "npm install -g @openai/codex", "@openai/codex-*/vendor/*/bin/codex"
    KEYS: ClassVar[tuple[str, ...]] = ("CODEX_API_KEY",)
    EXTRA: ClassVar[frozenset[str]] = frozenset({"serviceTier", "summary"})
    CAN_ALONE: ClassVar[frozenset[Capability]] = frozenset({"schema"})
    WORDS = WORDS

    def protocol(self) -> Protocol:
        """Return that of `codex app-server`."""
        prepare = lambda folder, ask: self._launch(folder, ask, self.model, ("app-server", _STRICT))  # noqa: E731
        return Protocol("codex", LINES, prepare, self.refusal, hello=HELLO, route=route, exchanges=_TURNS)

    def turn(self, exchange: Exchange, request: Request) -> Read:
        """Ask over the server."""
        return turn(exchange, request)

    def alone(self, request: Request) -> tuple[Protocol, Read, tuple[str, ...]]:
        """Return how `codex exec` is asked."""
        text, warnings = flat(request, "codex")
        prepare = lambda folder, ask: self._once(folder, ask, request)  # noqa: E731
        return Protocol("codex", LINES, prepare, self.refusal, input=text.encode()), Alone(), warnings

    def listed(self, exchange: Exchange) -> Sequence[ModelInfo]:
        """Return the models that this version of codex knows."""
        return [ModelInfo(model["id"]) for model in exchange.call("model/list", {})["data"]]

    def login(self) -> str:
        """Look for the user's login, and whether anything is in it."""
        try:
            found = json.loads(self._login.read_text(encoding="utf-8"))
            there = any(value for name, value in found.items() if name not in _NOT_A_LOGIN)
        except (OSError, ValueError, AttributeError):
            there = False
        return "" if there else f"codex is not logged in (no login in {self._login}): codex login, or CODEX_API_KEY"

    @property
    def _login(self) -> Path:
        return Path(os.path.expanduser(self.home)) / "auth.json"

    def _once(self, folder: Path, ask: Ask, request: Request) -> Launch:
        if managed := next((path for path in _MANAGED if path.exists()), None):
            raise UnavailableError(f"{managed} holds for `codex exec`, whatever we say", retry_same=False)
        command = [*_EXEC, *(("--model", request.model) if request.model else ())]
        options = {"developer_instructions": request.system, "model_reasoning_effort": request.reasoning_effort}
        if request.schema is not None:
            path = folder / "schema.json"
            path.write_text(json.dumps(request.schema), encoding="utf-8")
            command += ["--output-schema", str(path)]
        config = {name: value for name, value in options.items() if value}
        launch = self._launch(folder, ask, request.model, (*command, "-"), **config)
        return evolve(launch, environment={**launch.environment, "RUST_LOG": _LOG}, alarm=_ALARM)

    def _launch(self, folder: Path, ask: Ask, model: str | None, command: Sequence[str], **config: str) -> Launch:
        """Fill a new folder and return what to start.

        :param model: that will be asked, if known.
        :param config: further keys of the configuration.
        """
        program, own = self.ready(), not self.api_key and not self.base_url
        if own:
            (folder / "auth.json").symlink_to(self._login)  # not a copy: codex renews what is in it
        environment = {"CODEX_HOME": str(folder), "RUST_LOG": "off"}
        if self.api_key:
            environment[_KEY] = self.api_key.reveal()
        catalogue = folder / "models.json"
        catalogue.write_text(json.dumps({"models": _models(program, ask, model)}), encoding="utf-8")
        provider: dict[str, Any] = {"env_key": _KEY} if self.api_key else {"requires_openai_auth": own}
        if not own:
            provider["base_url"] = self.base_url or "https://api.openai.com/v1"
        top = {"notify": [], "developer_instructions": "", **config, "model_catalog_json": str(catalogue)}
        text = _toml(top) + _CONFIG.read_text(encoding="utf-8") + _toml(provider)
        (folder / "config.toml").write_text(text, encoding="utf-8")
        return Launch((program, *command), environment)


def _models(program: str, ask: Ask, model: str | None) -> list[dict[str, Any]]:
    try:
        told = ask(Launch((program, "debug", "models", "--bundled")))
        models = [{**each, **_TOOLLESS} for each in json.loads(told)["models"]]
        if models and model and model not in {each["slug"] for each in models}:
            models.append({**models[0], **_PLAIN, "slug": model, "display_name": model})
    except (UnavailableError, ValueError, LookupError, TypeError) as error:
        if isinstance(error, UnavailableError) and not refuses_arguments(error):
            raise  # it does not run at all
        raise UnavailableError(
            f"this version of codex does not tell its models ({error!s:.200}), and without them it cannot be kept from "
            "using tools. Install one that does: npm install -g @openai/codex@0.169.0",
            retry_same=False,
        ) from error
    return models


def _toml(values: Mapping[str, Any]) -> str:
    """Return plain values as TOML: as JSON, but for one character."""
    lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")
