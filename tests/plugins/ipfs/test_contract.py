"""The stores keep the contract of stores: on a real Kubo, over every way to it, and through its gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman import Scope
from pointsman.content import Source
from pointsman.testing import StoreContract, StoreReads
from pointsman_ipfs import Gateway, Kubo
from pointsman_ipfs.dag.cid import parse

pytestmark = pytest.mark.kubo


class OnKubo(StoreContract):
    """A store on the node that all tests share. Nobody else damages it: what is damaged is mended after the test."""

    @pytest.fixture(autouse=True)
    def node(self, kubo: Any) -> Iterator[None]:
        self.kubo, self.mend = kubo, dict[Path, bytes]()
        yield
        for path, data in self.mend.items():
            path.write_bytes(data)

    def sample(self, failure: Any = None) -> Any:
        return Kubo(url="http://127.0.0.1:5001")

    def damage(self, cid: str) -> None:
        path = self.kubo.block_file(parse(cid))
        data = self.mend[path] = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))


class TestOverAURL(OnKubo):
    def make_store(self) -> Any:
        return Kubo(url=self.kubo.api)


class TestOverAUnixSocket(OnKubo):
    def make_store(self) -> Any:
        return Kubo(url=f"unix://{self.kubo.socket}")


class TestOverIpfshttpclient(OnKubo):
    @pytest.fixture(autouse=True)
    def package(self, needs_package: Any) -> None:
        needs_package()

    def make_store(self) -> Any:
        return Kubo(url=self.kubo.api, transport="ipfshttpclient")

    def sample(self, failure: Any = None) -> Any:
        return Kubo()


class TestGateway(StoreReads):
    @pytest.fixture(autouse=True)
    def node(self, kubo: Any) -> None:
        self.kubo = kubo

    def make_store(self) -> Any:
        return Gateway(url=self.kubo.gateway)

    def keep(self, source: Source) -> str:
        return str(Kubo(url=self.kubo.api).store(source, Scope(60)).cid)

    def sample(self, failure: Any = None) -> Any:
        return Gateway(url="http://127.0.0.1:8080")
