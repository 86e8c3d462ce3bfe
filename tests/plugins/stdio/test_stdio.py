"""What stands under programs that are providers: where they are, how messages are cut, how text is made of turns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pointsman import Message, RateLimitError, Request, Secret, UnavailableError
from pointsman_stdio import HEADERS, HOPELESS, LINES, Launch, Words, find, flat, frames, output, version_of

NATIVE = "@maker/tool-*/bin/tool"


# -- where a program is -------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Any:
    """A function that makes files which can be run, and returns the first."""

    def make(*names: str, text: str = "") -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        return tmp_path / names[0]

    return make


SCRIPT = "lib/node_modules/@maker/tool/cli.js"
SHIM = '#!/bin/sh\nbasedir=$(dirname "$0")\nexec node "$basedir/global/5/node_modules/@maker/tool/cli.js" "$@"\n'


@pytest.mark.parametrize(
    "native",
    ["lib/node_modules/@maker/tool/node_modules/@maker/tool-x64/bin/tool", "lib/node_modules/@maker/tool-x64/bin/tool"],
)
def test_npm_wraps_a_program(installed: Any, tmp_path: Path, native: str) -> None:
    """Where npm has put a script into the PATH, the program itself is found, beside the script or below it."""
    installed(native, SCRIPT)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").symlink_to("../" + SCRIPT)
    assert find(str(tmp_path / "bin" / "tool"), NATIVE) == str(tmp_path / native)


def test_pnpm_wraps_a_program(installed: Any, tmp_path: Path) -> None:
    """Where pnpm has put a shell script into the PATH, the program that its script runs is found."""
    store = "global/5/.pnpm/tool@1/node_modules/@maker"
    native = installed(f"{store}/tool-x64/bin/tool", f"{store}/tool/cli.js")
    (tmp_path / "global/5/node_modules/@maker").mkdir(parents=True)
    (tmp_path / "global/5/node_modules/@maker/tool").symlink_to("../../.pnpm/tool@1/node_modules/@maker/tool")
    assert find(str(installed("tool", text=SHIM)), NATIVE) == str(native)


def test_a_wrapper_without_its_program_is_run_itself(installed: Any) -> None:
    """Where there is only the script, that is what is run: it says best what is wrong."""
    script = installed(SCRIPT)
    assert find(str(script), NATIVE) == str(script)


def test_a_shim_keeps_its_name(installed: Any, tmp_path: Path) -> None:
    """A link to a program that stands for many (mise, volta) is called by its own name."""
    installed("mise")
    (tmp_path / "tool").symlink_to("mise")
    assert find(str(tmp_path / "tool"), NATIVE) == str(tmp_path / "tool")


def test_names_and_paths(installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is looked up in the PATH; a path may begin with the home; what cannot be run is not found."""
    program = installed("bin/tool")
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert [find(name, NATIVE) for name in ("tool", "bin/tool", "~/bin/tool")] == [str(program)] * 3
    program.chmod(0o644)
    assert [find(name, NATIVE) for name in ("tool", "~/bin/tool", "~/bin", "absent")] == [""] * 4


# -- what a program prints ----------------------------------------------------------------------------


def test_it_prints_within_its_time(fake_program: Any, no_leaks: None) -> None:
    """What a program prints is returned; what it says when it fails, and that it hangs, is told."""
    code = "if args[0] == 'hang': time.sleep(60)\nif args[0] == 'fail': sys.exit('Error: no')\nprint(args[0])"
    program = fake_program(code)
    assert output(Launch((program, "v1.2.3")), 10) == "v1.2.3\n"
    assert version_of(Launch((program, "v1.2.3")), 10) == "1.2.3"
    for arguments, words in (("fail",), "exit code 1: Error: no"), (("hang",), "did not end within"):
        with pytest.raises(UnavailableError, match=words):
            output(Launch((program, *arguments)), 0.4)


def test_its_environment_is_what_it_is_given(
    fake_program: Any, no_leaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program has the network's variables, its own folder and what it is given: nothing else of ours."""
    monkeypatch.setenv("MY_SECRET", "x")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    found = json.loads(output(Launch((fake_program("print(json.dumps(dict(os.environ)))"),), {"GIVEN": "1"}), 10))
    assert found["GIVEN"] == "1"
    assert found["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert "MY_SECRET" not in found
    assert not os.path.exists(found["HOME"]), "it is gone with the program"


def test_what_it_says_on_the_side_is_bounded(fake_program: Any, no_leaks: None) -> None:
    """A program may say as much as it likes on its standard error: it neither blocks nor fills anything."""
    program = fake_program("for _ in range(300): os.write(2, b'x' * 65536 + b'\\n')\nprint('done')")
    assert output(Launch((program,)), 20) == "done\n"


# -- messages -----------------------------------------------------------------------------------------

MESSAGES = [{"id": 1, "text": "é\u2028\x85\n"}, {"method": "x" * 70_000}, {}]


def in_pieces(data: bytes, size: int) -> Iterable[bytes]:
    """Cut bytes into pieces of one size."""
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("framing", [LINES, HEADERS], ids=["lines", "headers"])
def test_messages_come_back(framing: Any, size: int) -> None:
    """What is packed is read again, however the pipe cuts it."""
    data = b"".join(framing.pack(message) for message in MESSAGES)
    found = list(framing.read(in_pieces(data, size)))
    assert [{name: value for name, value in each.items() if name != "jsonrpc"} for each in found] == MESSAGES


@pytest.mark.parametrize(
    ("framing", "data", "words"),
    [
        (LINES, b'{"id": 1', "no message"),
        (LINES, b"[1]\n", "no message"),
        (LINES, b"[" * 100_000 + b"\n", "no message"),
        (HEADERS, b"Welcome\n", "no header"),
        (HEADERS, b'Content-Length: 9\r\n\r\n{"id"', "5 bytes of a message of 9"),
        (HEADERS, b"Content-Length: 999999999999\r\n\r\n", "more than"),
    ],
)
def test_what_is_no_message(framing: Any, data: bytes, words: str) -> None:
    """Half a message, another protocol, or one that is too large is told, and not waited for."""
    with pytest.raises(frames.BrokenStream, match=words):
        list(framing.read([data]))


def test_a_key_is_revealed_only_on_the_wire() -> None:
    """A key in a message is a secret until it is packed; nothing else that is no JSON is packed."""
    message = {"key": Secret("sk-0123456789abcdef")}
    assert b"sk-0123456789abcdef" in LINES.pack(message)
    assert "sk-0123456789abcdef" not in repr(message)
    with pytest.raises(TypeError, match="nothing that JSON has"):
        LINES.pack({"x": object()})


# -- words and turns ----------------------------------------------------------------------------------


def test_words_become_errors() -> None:
    """A program's own names count first, then its sentences, then what any service would mean by them."""
    words = Words("it", {"slow": RateLimitError}, {"redirect": HOPELESS})
    assert type(words.error("x", kind="slow")) is RateLimitError
    assert words.error("Too many REDIRECTS").retry_same is False
    assert words.error("Rate limit: try again in 2.5s").retry_after == 2.5
    assert words.error("it failed").message == "it failed"
    assert words.error("boom").message == "it: boom"
    assert words.error('{"error": {"message": "no such model x", "code": "model_not_found"}}').code == "model_not_found"
    assert words.knows("redirected")
    assert not words.knows("boom")


def test_turns_become_text() -> None:
    """One turn is its own text; of several the roles stand on lines with a mark that is in no text."""
    assert flat(Request((Message("user", "Hi"),)), "it") == ("Hi", ())
    assert flat(Request((Message("user", "\ufeffHi"),)), "it")[0].endswith(" user]\n\ufeffHi"), (
        "programs drop a first mark"
    )
    text, warnings = flat(Request((Message("user", "a"), Message("assistant", "b")), system="s"), "it", system=True)
    assert warnings == ("it was given the conversation as one text",)
    heads = [line for line in text.splitlines() if line.startswith("[")]
    assert [head.split()[1] for head in heads] == ["system]", "user]", "assistant]"]
    assert len({head.split()[0] for head in heads}) == 1
