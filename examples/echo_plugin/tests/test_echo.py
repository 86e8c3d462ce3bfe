# ruff: noqa: S101 - a test asserts
"""The echo fulfils the contract of providers, and is found under its name."""

from pointsman import Router
from pointsman.testing import ProviderContract
from pointsman_echo import Echo


class TestEcho(ProviderContract):
    """Inherits every test that a provider without a service can be given."""

    def make_provider(self) -> Echo:
        """Return an echo that is configured."""
        return Echo(suffix="!")


def test_a_configuration_finds_it_by_its_type() -> None:
    """The entry point makes `"type": "echo"` mean this class."""
    with Router.from_config({"BACKENDS": [{"id": "back", "type": "echo", "suffix": "!"}]}) as router:
        assert router.generate("Hello").text == "Hello!"


def test_it_does_not_answer_for_others_unasked() -> None:
    """Without its option it is unconfigured, so that `Router()` leaves it out."""
    assert Echo().health().status == "unconfigured"
