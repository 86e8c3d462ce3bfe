"""A loopback server that answers every POST with the same text, in the form of its path, as cheaply as Python can.

Runs as a process of its own (`python _server.py`): it prints its port and serves until its stdin closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

_TEXT = "The tenant complains about mould. " * 12
_FORMS: dict[bytes, dict[str, Any]] = {  # end of the path -> the answer
    b"/chat/completions": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1780000000,
        "model": "bench-1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 120, "completion_tokens": 96, "total_tokens": 216},
    },
    b"/messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "bench-1",
        "content": [{"type": "text", "text": _TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 120, "output_tokens": 96},
    },
    b":generateContent": {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": _TEXT}]}, "finishReason": "STOP", "index": 0},
        ],
        "usageMetadata": {"promptTokenCount": 120, "candidatesTokenCount": 96, "totalTokenCount": 216},
        "modelVersion": "bench-1",
        "responseId": "r-1",
    },
}


def _response(answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: r-1\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


_RESPONSES = {end: _response(answer) for end, answer in _FORMS.items()}


class _Connection(asyncio.Protocol):
    """Answers each whole request; knows just enough of HTTP to see where one ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._got = b""

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = self._got[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._got) < end + 4 + length:
                return
            self._got = self._got[end + 4 + length :]
            path = head.split(b" ", 2)[1]
            self._transport.write(next(_RESPONSES[form] for form in _RESPONSES if path.endswith(form.lower())))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
