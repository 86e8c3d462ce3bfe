"""CIDs: what comes from outside is one of ours in its one spelling, or an error that says what was found."""

from __future__ import annotations

import random
import subprocess
import sys
from hashlib import sha256
from typing import Any

import pytest
from multiformats import CID, multibase
from pointsman import InvalidRequestError, UnusableAnswer
from pointsman_ipfs.dag import cid as cids

HELLO = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
HELLO_V0 = "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"
DIGEST = sha256(b"hello world").digest()
OURS = [cids.raw_cid(b"hello world"), cids.pb_cid(b"x"), cids.pb_cid(b"x", 0), cids.cbor_cid(b"x")]
BASES = ["base8", "base10", "base16", "base16upper", "base32", "base32upper", "base32hex", "base32z", "base36"]
BASES += ["base58btc", "base58flickr", "base64", "base64url", "base64pad", "base64urlpad"]


def test_a_block_has_the_cid_that_others_give_it() -> None:
    """The CID of "hello world" is the one that Kubo's tests name; that of a node has the version that was asked for."""
    assert cids.to_text(cids.raw_cid(b"hello world")) == HELLO
    node = bytes.fromhex("0a110802120b68656c6c6f20776f726c64180b")
    assert cids.to_text(cids.pb_cid(node, 0)) == HELLO_V0
    assert cids.to_text(cids.pb_cid(node)) == "bafybeihykld7uyxzogax6vgyvag42y7464eywpf55gxi5qpoisibh3c5wa"


def test_texts_are_those_of_multiformats() -> None:
    """For any digest, also one that begins with zeros, both spell the same, and read what the other wrote."""
    rng = random.Random("texts")
    for number in range(300):
        digest = bytes(number % 5) + rng.randbytes(32 - number % 5)
        for prefix in "1220", "01551220", "01701220", "01711220":
            cid = bytes.fromhex(prefix) + digest
            theirs = CID.decode(cid)
            text = str(theirs) if prefix == "1220" else str(theirs.set(base="base32"))
            assert cids.to_text(cid) == text
            assert cids.parse(text) == cid


@pytest.mark.parametrize("base", BASES)
def test_any_base_becomes_the_one_form(base: str) -> None:
    """A CID in another base, or in capitals where the base allows them, is the same CID; so is one after `ipfs://`."""
    assert cids.parse(HELLO.upper()) == cids.parse(HELLO[:20] + HELLO[20:].upper()) == cids.parse(HELLO)
    for cid in OURS:
        if cid[0] == 1:  # version 0 has no base
            written = multibase.encode(cid, base)
            assert cids.parse(written) == cids.parse("ipfs://" + written) == cids.parse("/ipfs/" + written) == cid


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "none"),
        ("b", "none"),
        ("Qm", "none"),
        ("bafy", "none"),
        (HELLO[:-1], "none"),
        (HELLO[:-1] + "f", "none"),
        (HELLO + "a", "none"),
        (" " + HELLO, "none"),
        (HELLO_V0[:-1], "none"),
        (HELLO_V0[:-1] + "0", "none"),
        ("z" + HELLO_V0, "none"),
        ("Qm" + "z" * 44, "none"),
        ("../../etc/passwd", "a path"),
        (HELLO + "/a", "a path"),
        ("\ud800", "none"),
        ("ipfs://", "none"),
        ("x" * 129, "129 characters"),
        ("f" * 100_000, "100000 characters"),
        ("bafkqaaa", "hash function 0x0 with 0 bytes"),
        ("bafzaajaiaejcbzdibmxyzdjbbehgvizh6g5tikvy47mshdy6gwbruvgwvd24seje", "codec 0x72"),
    ],
)
def test_what_is_none_of_ours_is_refused(text: str, found: str) -> None:
    """Whatever the library raises, and where it is content with less than we are, the error says what was found."""
    with pytest.raises(InvalidRequestError, match=f"found.*{found}.*expected"):
        cids.parse(text)


@pytest.mark.parametrize("given", [None, 5, HELLO.encode()])
def test_what_is_no_text_is_refused(given: Any) -> None:
    """With its type."""
    for read in (cids.parse, cids.split):
        with pytest.raises(InvalidRequestError, match=f"CID: found {type(given).__name__}, expected text"):
            read(given)


@pytest.mark.parametrize(
    "cid",
    [
        b"",
        b"\x01",
        b"\x12\x20" + DIGEST[:-1],
        b"\x12\x20" + DIGEST + b"x",
        b"\x12\x10" + DIGEST[:16],
        b"\x01\x55\x12\x10" + DIGEST[:16],
        b"\x01\x55\x12\x20" + DIGEST[:-1],
        b"\x01\x55\x12\x20" + DIGEST + b"x",
        b"\x01\x55\x13\x20" + DIGEST,
        b"\x01\xd5\x00\x12\x20" + DIGEST,
        b"\x01\xa9\x02\x12\x20" + DIGEST,
        b"\x02\x55\x12\x20" + DIGEST,
        b"\x01\x55\x00\x05hello",
        b"\xff" * 40,
    ],
)
def test_other_bytes_are_refused(cid: bytes) -> None:
    """A cut digest, another function, codec or version, a longer spelling of a number: none is a CID of ours."""
    with pytest.raises(InvalidRequestError, match=r"found.*expected"):
        cids.parse_bytes(cid)
    assert not cids.is_ours(cid)


def test_a_cid_says_what_it_is() -> None:
    """Codec and digest come out of our CIDs, and of others, as far as they are CIDs at all."""
    assert [cids.codec_of(cid) for cid in OURS] == [cids.RAW, cids.DAG_PB, cids.DAG_PB, cids.DAG_CBOR]
    assert cids.digest_of(OURS[0]) == DIGEST
    assert cids.codec_of(b"\x01\xa9\x02\x12\x20" + DIGEST) == 0x129
    assert cids.inline_of(b"\x01\x55\x00\x05hello") == b"hello"
    assert [cids.inline_of(cid) for cid in [*OURS, b"\x01\x55\x13\x20" + DIGEST]] == [None] * 5
    with pytest.raises(UnusableAnswer):
        cids.codec_of(b"\x01\x55\x12")


def test_a_cid_is_taken_off_the_front() -> None:
    """`take` returns the CID and its end, of ours and of others, and never one that goes beyond the data."""
    for cid in [*OURS, b"\x01\x55\x00\x05hello", b"\x01\x70\xa0\xe4\x02\x20" + DIGEST]:
        assert cids.take(b"??" + cid + b"rest", 2) == (cid, 2 + len(cid))
        for length in range(len(cid)):
            with pytest.raises(UnusableAnswer):
                cids.take(cid[:length])


def test_a_path_is_split() -> None:
    """A path is a CID and names; empty names are none, and no name has a meaning of its own."""
    assert cids.split(f"/ipfs/{HELLO}//a/../b c/") == (cids.parse(HELLO), ["a", "..", "b c"])
    assert cids.split(f"ipfs://{HELLO}") == (cids.parse(HELLO), [])
    with pytest.raises(InvalidRequestError, match="'/etc/passwd': found no CID"):
        cids.split("/etc/passwd")


def test_importing_loads_no_library_of_cids() -> None:
    """Neither importing the modules nor reading a CID in its usual spelling costs the import of `multiformats`."""
    modules = "block, car, cid, dagpb, hamt, reader, tree, unixfs"
    code = f"import sys; from pointsman_ipfs.dag import {modules}; cid.parse({HELLO!r}); cid.parse({HELLO_V0!r})"
    code += "; print({'multiformats', 'dag_cbor', 'requests'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"
