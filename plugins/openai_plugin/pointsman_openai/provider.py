"""OpenAI: which of its two APIs a model needs, and what it takes there."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

from attrs import field, frozen
from pointsman import BackendError, Request
from pointsman.service import is_loopback, is_within

from . import chat, responses
from .wire import Api, Compatible

# What is known of OpenAI's models, on 22 November 2026: from openai 3.54.0, litellm 1.109.1's data, and
# openai-openapi's issue 541 (from gpt-5.4 on, function tools and reasoning do not mix in chat completions).
_RESPONSES_ONLY = re.compile(r"-pro\b|codex|deep-research|computer-use")
_GPT = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")
_REASONS = re.compile(r"\bo\d|\bgpt-([5-9]|\d\d)(?!.*-chat)|codex")
_WITHOUT_SCHEMA = re.compile(r"\bgpt-(3\.5|4(?!o|\.\d))")
#: Takes no effort `none`.
_ALWAYS_REASONS = re.compile(r"\bo\d|\bgpt-5(?!\.)|\bgpt-6-astra|\bgpt-6\.1-sol|codex")
_NOT_WHILE_REASONING = {"temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "top_k"}
_MOST_STOPS = 4


@frozen(kw_only=True)
class OpenAI(Compatible):
    """OpenAI, or any server that speaks its chat completions or its Responses API."""

    HOME: ClassVar[str] = "https://api.openai.com/v1"
    DOMAINS: ClassVar[tuple[str, ...]] = ("api.openai.com",)
    KEYS: ClassVar[tuple[str, ...]] = ("OPENAI_API_KEY",)
    URL: ClassVar[str] = "OPENAI_BASE_URL"
    MODEL: ClassVar[str] = "OPENAI_MODEL"

    organization: str | None = field(factory=lambda: OpenAI.environment("OPENAI_ORG_ID"))
    project: str | None = field(factory=lambda: OpenAI.environment("OPENAI_PROJECT_ID"))
    #: Which API: "auto" takes what the model needs on OpenAI's hosts, and chat completions elsewhere.
    api: Literal["auto", "chat", "responses"] = "auto"
    #: Say that the server at `base_url`, on loopback, keeps what it is asked on this machine.
    local: bool = False

    def problem(self) -> str:
        """Return what keeps it from being asked."""
        if self.local and not is_loopback(self.host):
            return f"local says that nothing leaves this machine, but base_url is at {self.host}: unset one of them"
        return super().problem()

    @property
    def needs_model(self) -> bool:
        """OpenAI itself has no model of its own choice."""
        return self._openai

    @property
    def vendor(self) -> str:
        """Whose state is kept with a conversation: what another server thought is nothing to OpenAI."""
        return "openai" if self._openai else self.host or ""

    @property
    def limit_name(self) -> str:
        """What the server calls `max_tokens`."""
        return "max_completion_tokens" if self._openai else "max_tokens"

    def own_headers(self) -> Mapping[str, str | None]:
        """Return what says who pays: to OpenAI, and to nobody else."""
        return {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project} if self._openai else {}

    def untaken(self, request: Request, model: str) -> Collection[str]:
        """Return the options that the model does not take, as far as its name tells."""
        names = set(responses.ABSENT if self._needs_responses(model, request) else ())
        if not self._openai:
            return names
        effort = request.reasoning_effort
        if not _REASONS.search(model):
            names |= {"top_k", "reasoning_effort"}
        elif effort == "none" and not _ALWAYS_REASONS.search(model):
            names |= {"top_k", "stop"}
        else:
            names |= _NOT_WHILE_REASONING if effort != "none" else {*_NOT_WHILE_REASONING, "reasoning_effort"}
        if _WITHOUT_SCHEMA.search(model):
            names.add("schema")
        return names | ({"stop"} if len(request.stop) > _MOST_STOPS else set())

    def api_for(self, model: str | None, request: Request) -> Api:
        """Return the Responses API where the model needs it."""
        return responses if self._needs_responses(model, request) else chat

    def fit(self, body: dict[str, Any], request: Request) -> None:
        """Ask a model that reasons for its thoughts, encrypted, to give them back: nothing is stored for us."""
        if "input" in body and _REASONS.search(body.get("model", "")):
            body["include"] = ["reasoning.encrypted_content"]

    def teaches(self, error: BackendError, body: Mapping[str, Any], model: str | None) -> tuple[str | None, str] | None:
        """Return what a refusal teaches."""
        if "v1/responses" in error.message and self.api == "auto" and "messages" in body:
            return model, "responses"
        return super().teaches(error, body, model)

    @property
    def _openai(self) -> bool:
        return is_within(self.host, self.DOMAINS[0])

    def _needs_responses(self, model: str | None, request: Request) -> bool:
        if self.api != "auto":
            return self.api == "responses"
        if (model, "responses") in self._learnt:
            return True
        if not self._openai or not model:
            return False
        version = _GPT.search(model)
        tools_need_it = version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 4)
        return bool(_RESPONSES_ONLY.search(model)) or (tools_need_it and "tools" in request.needs)
