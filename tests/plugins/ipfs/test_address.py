"""Where a node is: as a person writes it, as a variable says it, as the node itself leaves it behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pointsman import ConfigError, UnavailableError
from pointsman.secret import Secret
from pointsman_ipfs import Gateway, Kubo
from pointsman_ipfs.node._address import address_of


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No node of the person who runs the tests."""
    monkeypatch.delenv("IPFS_API", raising=False)
    monkeypatch.setenv("IPFS_PATH", str(tmp_path / "repo"))


@pytest.mark.parametrize(
    ("written", "url", "local"),
    [
        ("http://127.0.0.1:5001", "http://127.0.0.1:5001", True),
        (" http://127.0.0.1:5001/ ", "http://127.0.0.1:5001", True),
        ("http://localhost:5001/api/v0", "http://localhost:5001", True),
        ("https://node.example/ipfs/api/v0/", "https://node.example/ipfs", False),
        ("https://node.example:8443/api", "https://node.example:8443", False),
        ("http://[::1]:5001", "http://[::1]:5001", True),
        ("/ip4/127.0.0.1/tcp/5001", "http://127.0.0.1:5001", True),
        ("/ip4/10.0.0.1/tcp/5001/http", "http://10.0.0.1:5001", False),
        ("/ip6/::1/tcp/5001", "http://[::1]:5001", True),
        ("/dns/node.example/tcp/443/https", "https://node.example:443", False),
        ("/dns4/node.example/tcp/443/tls/http", "https://node.example:443", False),
        ("/unix/run/ipfs.sock", "http+unix://%2Frun%2Fipfs.sock", True),
        ("unix:///run/a b.sock", "http+unix://%2Frun%2Fa%20b.sock", True),
        ("http+unix://%2Frun%2Fipfs.sock/api/v0", "http+unix://%2Frun%2Fipfs.sock", True),
    ],
)
def test_an_address_in_each_form(written: str, url: str, local: bool) -> None:
    """URLs, with or without the path of the RPC, multiaddrs and unix sockets lead to the same."""
    address = address_of(written)
    assert (address.url, address.told_by, address.is_local) == (url, "url", local)
    assert Kubo(url=written).local is local


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            " ",
            "localhost:5001",
            "ftp://x",
            "http://",
            "/ip4/1.2.3.4/udp/1",
            "/ip4/1.2.3.4/tcp/5001/p2p/Qm",
            "unix://",
        ),
        *("http://me:secret@host", "http://host:port", "http://host/?key=secret", "http://host/#secret"),
        *("http://127.0.0.1:65536", "/ip4/127.0.0.1/tcp/70000", "http://[::1", "http://[x]:1", "/ip6/[x/tcp/1"),
        *(3, b"http://127.0.0.1:5001", Path("/run/ipfs.sock")),
    ],
)
def test_what_is_no_address_is_told(written: Any) -> None:
    """The message names the option and the forms; it repeats no password."""
    with pytest.raises(ConfigError, match="url: found") as caught:
        Kubo(url=written)
    assert "secret" not in str(caught.value)


def test_who_tells_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option counts before IPFS_API, that before the file of a running node, that before the default."""
    assert (address_of(None).url, address_of(None).told_by) == ("http://127.0.0.1:5001", "")
    (tmp_path / "repo").mkdir()
    file = tmp_path / "repo" / "api"
    file.write_text("/ip4/127.0.0.1/tcp/4321\n")
    assert (address_of(None).url, address_of(None).told_by) == ("http://127.0.0.1:4321", str(file))
    monkeypatch.setenv("IPFS_API", "http://127.0.0.1:1234")
    assert (address_of(None).url, address_of(None).told_by) == ("http://127.0.0.1:1234", "IPFS_API")
    assert address_of("http://127.0.0.1:9").url == "http://127.0.0.1:9"
    monkeypatch.setenv("IPFS_API", "nonsense")
    with pytest.raises(ConfigError, match="IPFS_API: found"):
        Kubo()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"token": "t", "username": "u", "password": "p"}, "token"),
        ({"username": "u"}, "password"),
        ({"password": "p"}, "username"),
        ({"token": "line\nbreak"}, "authorization"),
        ({"headers": {"X-A": "nul\0"}}, "x-a"),
        ({"headers": "X-A: b"}, "headers: found str, expected a mapping of names to texts"),
        ({"headers": {"X-A": 3}}, "headers: X-A: found int, expected a text"),
        ({"headers": {Secret("a" * 12): "b"}}, "headers: found a name of type Secret, expected a text"),
        ({"profile": "nonsense"}, "profile"),
        ({"transport": "carrier pigeon"}, "transport"),
    ],
)
def test_a_wrong_option_is_told(options: dict[str, Any], says: str) -> None:
    """It is named when the store is built."""
    with pytest.raises((ConfigError, ValueError), match=says):
        Kubo(url="http://127.0.0.1:5001", **options)


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other transport needs an extra: the message says which."""
    monkeypatch.setitem(__import__("sys").modules, "ipfshttpclient", None)
    with pytest.raises(ConfigError, match=r"pip install \"pointsman-ipfs\[ipfshttpclient\]\""):
        Kubo(transport="ipfshttpclient")


@pytest.mark.parametrize(
    "url",
    [
        *("", "gateway.example", "ftp://gateway.example", "unix:///x", "http://me:secret@host", "http://"),
        *("http://gateway.example:65536", "http://[::1", None, 3),
    ],
)
def test_what_is_no_gateway_is_told(url: Any) -> None:
    """A gateway has a URL."""
    with pytest.raises(ConfigError, match="url: found") as caught:
        Gateway(url=url)
    assert "secret" not in str(caught.value)


def test_a_gateway_by_its_url() -> None:
    """With or without the path of its content; on this machine or not; read only."""
    for url in "https://gateway.example", "https://gateway.example/", "https://gateway.example/ipfs/":
        assert Gateway(url=url).url == "https://gateway.example"
        assert Gateway(url=f"{url}?a=b/ipfs").url == "https://gateway.example?a=b/ipfs"
    assert (Gateway(url="http://127.0.0.1:8080").local, Gateway(url="https://gateway.example").local) == (True, False)
    assert Gateway.read_only == "a gateway only gives out; name another store to keep things in"


def test_keys_are_not_shown() -> None:
    """Neither by their repr nor in what can be logged of it."""
    for store in (
        Kubo(token="t0ken-of-nobody", headers={"X-Api-Key": "k3y-of-nobody"}),
        Kubo(username="anna", password="pa55-of-nobody"),
        Gateway(url="http://127.0.0.1:8080", token="t0ken-of-nobody", headers={"X-Api-Key": "k3y-of-nobody"}),
        Gateway(url="https://gateway.example/ipfs?token=qu3ry-of-nobody"),
    ):
        assert "of-nobody" not in repr(store) + str(vars(store) if hasattr(store, "__dict__") else "")
    assert "of-nobody" not in str(UnavailableError("cannot GET /ipfs/bafkqaaa?format=raw&token=qu3ry-of-nobody"))
