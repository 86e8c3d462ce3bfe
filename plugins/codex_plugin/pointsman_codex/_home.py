"""How codex is started: a home of its own, in which nothing is but what we put there, and no tool.

Keys of the configuration and of the catalogue of models: codex 0.169.0, of November 2026. A version that
does not know one of them ends at once (`--strict-config`), rather than do what nobody allowed it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen
from pointsman import Secret, UnavailableError
from pointsman_stdio import Launch, output, surroundings

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


@frozen
class Home:
    """What every process of codex is started with."""

    program: str  #: an absolute path
    base_url: str | None
    key: Secret | None
    login: Path  #: the user's auth.json, used where there is neither a key nor a `base_url`

    def launch(self, folder: Path, model: str | None, command: Sequence[str], **config: str) -> Launch:
        """Fill a new folder and return what to start.

        :param model: that will be asked, if known.
        :param config: further keys of the configuration.
        """
        own = not self.key and not self.base_url
        if own:
            (folder / "auth.json").symlink_to(self.login)  # not a copy: codex renews what is in it
        environment = {"CODEX_HOME": str(folder), "RUST_LOG": "off", **({_KEY: self.key.reveal()} if self.key else {})}
        catalogue = folder / "models.json"
        catalogue.write_text(json.dumps({"models": self._models(folder, model)}), encoding="utf-8")
        provider: dict[str, Any] = {"env_key": _KEY} if self.key else {"requires_openai_auth": own}
        if not own:
            provider["base_url"] = self.base_url or "https://api.openai.com/v1"
        top = {**config, "model_catalog_json": str(catalogue)}
        text = _toml(top) + _CONFIG.read_text(encoding="utf-8") + _toml(provider)
        (folder / "config.toml").write_text(text, encoding="utf-8")
        return Launch((self.program, *command), environment)

    def _models(self, folder: Path, model: str | None) -> list[dict[str, Any]]:
        try:
            told = output(self.program, "debug", "models", "--bundled", environment=surroundings(folder))
            models = [{**each, **_TOOLLESS} for each in json.loads(told)["models"]]
            if models and model and model not in {each["slug"] for each in models}:
                models.append({**models[0], **_PLAIN, "slug": model, "display_name": model})
        except (UnavailableError, ValueError, KeyError, TypeError) as error:
            raise UnavailableError(
                f"this version of codex does not tell its models ({error}), and without them it cannot be kept from "
                "using tools. Install one that does: npm install -g @openai/codex@0.169.0",
                retry_same=False,
            ) from error
        return models


def _toml(values: Mapping[str, Any]) -> str:
    """Return plain values as TOML: as JSON, but for one character."""
    lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")
