"""Keys that nothing shows."""

import copy
import gc
import pickle
import random
import sys
import threading
from collections.abc import Callable
from time import process_time

import pytest
from attrs import field, frozen
from pointsman import Secret
from pointsman.secret import _KEY_LIKE, MASK, redact

KEY = "correct-horse-battery"


@frozen
class Holder:
    """A provider's options, as far as its key goes."""

    api_key: Secret | None = field(default=None, converter=Secret.of)  # type: ignore[misc] # mypy knows no classmethods here


@pytest.mark.parametrize("show", [str, repr, "{}".format, "{!s:>40}".format, lambda value: f"{[value]} {(value,)}"])
@pytest.mark.parametrize("value", [Secret(KEY), Holder(KEY)])
def test_no_text_form_shows_the_key(show: Callable[[object], str], value: object) -> None:
    """However a secret is turned into text, alone or inside something, the key is not in it."""
    assert KEY not in show(value)
    assert KEY not in f"{Secret(KEY):>40} {Secret(KEY):s}"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_never_pickled(protocol: int) -> None:
    """A pickle would carry the key away: it is refused with what to do instead, also inside other values."""
    for value in (Secret(KEY), Holder(KEY), [Secret(KEY)]):
        with pytest.raises(TypeError, match="never pickled: let the other process read it"):
            pickle.dumps(value, protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(Secret(KEY))


def test_white_space_around_a_key_is_no_part_of_it() -> None:
    """The line break at the end of a key file would break a header, so it is stripped."""
    assert Secret(f"  {KEY}\n").reveal() == KEY
    assert Secret(KEY) == Secret(f"{KEY} ")
    assert hash(Secret(KEY)) == hash(Secret(f"{KEY} "))
    assert Secret(KEY) != KEY


def test_no_key_is_none() -> None:
    """Empty text and None are no key; what is not text is refused without being shown."""
    assert Holder(None).api_key is Holder("  ").api_key is None
    given = Secret(KEY)
    assert Holder(given).api_key is given
    with pytest.raises(TypeError, match="found int"):
        Holder(12345678)


def test_held_keys_are_masked_wherever_they_stand() -> None:
    """`redact` masks each key that the process holds, however it is embedded, and stops when nobody holds it."""
    key = "a-key-of-this-test-only"
    held = Secret(key)
    assert redact(f"x{key}y and ({key})") == f"x{MASK}y and ({MASK})"
    assert redact("nothing to hide") == "nothing to hide"
    del held
    gc.collect()
    assert redact(key) == key


@pytest.mark.parametrize("told", ["top/se+cret=ä", "top/se%2Bcret%3D%C3%A4", "top%2fse%2bcret%3d%c3%a4"])
def test_held_keys_are_masked_as_they_stand_in_an_address(told: str) -> None:
    """A server may repeat them percent-encoded, in letters of either case, and leave out what need not be."""
    key = Secret("top/se+cret=ä")
    assert redact(f"100 % of /api?arg={told}&x=1") == f"100 % of /api?arg={MASK}&x=1"
    assert key.reveal() not in repr(key)


def test_a_key_is_masked_as_long_as_anybody_holds_it() -> None:
    """Two secrets with the same key are two holders: that one is gone changes nothing."""
    key = "a-key-of-two-backends"
    first, second = Secret(key), Secret(key)
    del first
    gc.collect()
    assert redact(key) == MASK
    assert second.reveal() == key


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abcDEF123456789012345",
        "sk-ant-api03-AAAAAAAAAAAAAAAAAAAA",
        "hf_abcdefghijklmnopqrst",
        "gsk_abcdefghijklmnopqrst",
        "ghp_abcdefghijklmnopqrst",
        "gho_abcdefghijklmnopqrst",
        "github_pat_11ABCDEFG0abcdefghij",
        "ghs_abcdefghijklmnopqrst",
        "glpat-abcdefghijklmnopqrst",
        "nvapi-abcdefghijklmnopqrst",
        "xoxb-123456789012-abcdefghij",
        "npm_abcdefghijklmnopqrstuvwxyz0123456789",
        "r8_abcdefghijklmnopqrstuvwxyz01234567890",
        "pplx-abcdefghijklmnopqrstuvwxyz0123456789",
        "pypi-AgEIcHlwaS5vcmcCJGFiY2RlZmdoaWprbG1ub3A",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghij",
        "xai-abcdefghijklmnopqrst",
        "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm5hIn0.c2lnbmF0dXJlLW9mLWl0",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nAAAAB3Nz\n-----END OPENSSH PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw, and cut here",
    ],
)
@pytest.mark.parametrize("around", ["{}", "Incorrect API key provided: {}.", "'{}'", "key={}&x=1", "Bearer {}"])
def test_what_looks_like_a_key_is_masked(text: str, around: str) -> None:
    """A key that we do not hold (a provider's echo, a neighbour's) is known by its looks."""
    shown = redact(around.format(text))
    assert text[-12:] not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Authorization: Bearer abcd.efgh-ijkl", "abcd.efgh-ijkl"),
        ("authorization: bearer qwertyuiop", "qwertyuiop"),
        ("GET /v1beta/models?key=qwertyuiop&alt=sse", "qwertyuiop"),
        ("https://example.org/?a=1&api_key=qwertyuiop", "qwertyuiop"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI"),
        ('{\\"SecretAccessKey\\": \\"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\\"}', "wJalrXUtnFEMI"),
        ("cannot reach https://anna:qwertyuiop@example.org/v1", "qwertyuiop"),
    ],
)
def test_headers_and_urls_do_not_carry_keys(text: str, kept: str) -> None:
    """What stands behind `Bearer`, in `key=` or behind its name is a key, whatever it looks like."""
    assert kept not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "skating is fun",
        "the model gpt-4o-mini-2024-07-18",
        "sk-short",
        "ask-the-librarian-about-it",
        "skeletonization-experts",
        "npm_config_registry and the model pplx-70b-online",
        "npm_package_devDependencies_typescript_eslint_parser",
        "ASIA AND AFRICA, ASIAPACIFIC",
        "the secret access key is in the safe",
        "pkg_resources.extern",
        "risk-management-department",
        "write to anna@example.org, or see https://example.org:8443/a@b",
        "-----BEGIN PUBLIC KEY-----",
    ],
)
def test_words_are_no_keys(text: str) -> None:
    """Ordinary words, model names and short text stay readable."""
    assert redact(text) == text


def test_the_quick_look_misses_no_key() -> None:
    """20,000 texts of pieces of keys: what the first look passes over has none."""
    rng = random.Random("keys")
    pieces = ("sk", "pk", "hf", "gsk", "xai", "gho", "GitHub_Pat", "AIza", "AQ.", "bearer ", "?key=", "&api_key=")
    pieces += ("://", "anna:", "@", "eyJ", ".", "AGE-SECRET-KEY-1", "-----BEGIN ", "PRIVATE KEY-----", "-----END ")
    pieces += ("AKIA", "ASIA", "IOSFODNN7EXAMPLE", "secret", "access", "key", "pypi-AgE", "npm", "r8", "pplx", "xoxb")
    pieces += ("NVAPI", "glpat", "-", "_", " ", "=", "x", "abcdefghijkl", "0123456789AB", "0" * 40)
    pieces += ("\u017f", "\u212a", "\u00e4", "\n")
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 8)))
        assert redact(text) == _KEY_LIKE.sub(rf"\1{MASK}", text)


@pytest.mark.parametrize("piece", ["eyJ--------", "eyJaaaaaaaa.", "sk-a ", "-----BEGIN A ", "://a:", "?key=", "%2f"])
def test_a_long_text_takes_a_time_that_grows_as_it_does(piece: str) -> None:
    """A stranger's text of beginnings of keys, of 128 KiB: it took six seconds, and six minutes for 1 MiB."""
    began = process_time()
    redact(piece * (131072 // len(piece)))
    assert process_time() - began < 2


def test_threads_make_keys_while_others_redact() -> None:
    """Routers may be made and closed while calls of others fail."""
    ended = threading.Event()

    def make() -> None:
        while not ended.is_set():
            kept = [Secret(f"sk-of-another-router-{number}") for number in range(50)]
            del kept

    threads = [threading.Thread(target=make) for _ in range(4)]
    kept = Secret("the key of this one")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            assert redact(f"echo: {kept.reveal()}") == "echo: ***"
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        for thread in threads:
            thread.join()
