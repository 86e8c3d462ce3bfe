"""The contract of providers, for the local model: its failures are templates that do harm when they are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman import Request
from pointsman.testing.contract import Failure, ProviderContract
from pointsman_local import Local

#: Only what the suite asks does harm: what the engine tries while it loads does not.
_ASKED = "{% if 'rivers' in messages[-1]['content'] or 'number' in messages[-1]['content'] %}"
_TEMPLATES: dict[Failure, str] = {
    "context_too_long": _ASKED + "{% for n in range(9000) %}x y {% endfor %}{% endif %}x",
    "bad_request": _ASKED + "{{ raise_exception('not this') }}{% endif %}x",
    "unavailable": "{% macro f() %}{{ f() }}{% endmacro %}" + _ASKED + "{{ f() }}{% endif %}x",
    "silent": _ASKED + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}x",
}


class TestLocal(ProviderContract):
    """A tiny model with random weights keeps the contract."""

    model_file: Callable[..., Path] = staticmethod(lambda **_: Path("written-when-a-test-runs.gguf"))
    tools = ""

    @pytest.fixture(autouse=True)
    def _files(self, model_file: Callable[..., Path], tools_template: str) -> None:
        self.model_file, self.tools = model_file, tools_template

    def request(self, prompt: str = "Name three rivers.", **options: Any) -> Request:
        """Ask for what a random model can give: an end, and the same each time."""
        fields: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "seed": 1}
        if "schema" in options or "tools" in options:  # its strings would never end by themselves
            fields |= {"max_tokens": 200, "extra": {"logit_bias": [['"', 50.0]]}}
        return super().request(prompt, **{**fields, **options})

    def make_provider(self) -> Local:
        """Return a model that knows tools; one request at a time, so that it answers the same twice."""
        return self._local(self.tools)

    def make_failing(self, failure: Failure) -> Any:
        """Return a model that fails so."""
        if failure == "unknown_model":
            return Local(model_path="/nonexistent/model.gguf")
        if failure == "endless":
            return self._local(self.tools, endless=True)
        return self._local(_TEMPLATES[failure]) if failure in _TEMPLATES else None

    def _local(self, template: str, *, endless: bool = False) -> Local:
        path = self.model_file(template=template, context_length=1 << 16 if endless else 4096)
        n_ctx = 1 << 15 if endless else 1024
        return Local(model_path=str(path), engine="xllamacpp", n_ctx=n_ctx, n_threads=1, n_parallel=1)
