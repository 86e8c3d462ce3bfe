"""What the backends offer: `Router.models` and `pointsman models`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attrs import define
from pointsman import ConfigError, ModelInfo, Router, UnavailableError, hookimpl
from pointsman.cli._app import run
from pointsman.testing import Scripted

LARGE = ModelInfo("large", 200_000, {"input": 3.0, "output": 15.0}, "2027-01-14")


@define(eq=False)
class Offering(Scripted):
    """A provider that can tell what it offers, unless its service is down."""

    down: bool = False

    @hookimpl
    def list_models(self) -> Sequence[ModelInfo]:
        """Tell it."""
        if self.down:
            raise UnavailableError("no connection")
        return [LARGE, ModelInfo("small")]


def test_each_backend_tells_what_it_offers() -> None:
    """Whoever cannot tell is an error in its place, and costs the others nothing."""
    with Router({"a": Offering(), "b": Offering(down=True), "c": Scripted()}) as router:
        found = router.models()
        assert found["a"] == [LARGE, ModelInfo("small")]
        assert isinstance(found["b"], UnavailableError)
        assert "cannot list models" in str(found["c"])
        assert list(router.models("a")) == ["a"]
        with pytest.raises(ConfigError, match="did you mean 'a'"):
            router.models("aa")


def test_the_command_shows_them(
    install: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for a person, JSON for a program; what is unknown is empty and never 0."""
    install(
        "pointsman-offer",
        {"offer": "Offer"},
        code="""
        from pointsman import ModelInfo

        @frozen
        class Offer:
            @hookimpl
            def generate(self, request: Request) -> Completion:
                return Completion("x")

            @hookimpl
            def list_models(self):
                return [ModelInfo("large", 200_000, {"input": 3.0, "output": 15.0}, "2027-01-14"), ModelInfo("small")]
        """,
    )
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"BACKENDS": [{"id": "main", "type": "offer"}]}))
    assert run(["models", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1].split() == ["main", "large", "200000", "3", "15", "2027-01-14"]
    assert run(["models", "--json", "--backend", "main", "--config", str(config)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["context"], first["retires"]) == (200_000, "2027-01-14")
    assert second == {
        "backend": "main",
        "model": "small",
        "context": None,
        "input": None,
        "output": None,
        "retires": None,
    }
