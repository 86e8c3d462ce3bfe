"""What a conversation is made of: turns, pictures, tools and their calls. All are frozen, and names of `values` too."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen

Role = Literal["system", "user", "assistant", "tool"]


@frozen
class Image:
    """A picture in a message: either its bytes or the URL where the provider finds it."""

    data: bytes | None = field(default=None, repr=lambda value: f"<{len(value or b'')} bytes>")
    url: str | None = None
    media_type: str = "image/png"  #: of `data`: "image/png", "image/jpeg", "image/gif" or "image/webp"

    def __attrs_post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise ValueError("Image: give either data (the bytes) or url, and not both")
        fits = isinstance(self.data, bytes | None) and isinstance(self.url, str | None)
        if not fits:
            raise ValueError("Image: data is bytes and url is text; an image in a file is Image(path.read_bytes())")

    def as_url(self) -> str:
        """Return `url`, or the bytes as a `data:` URL (RFC 2397)."""
        if self.data is None:
            return self.url or ""
        return f"data:{self.media_type};base64,{b64encode(self.data).decode('ascii')}"

    @property
    def inline(self) -> tuple[str, str] | None:
        """The media type and the base64 of the picture, also of a `data:` URL; None where only an URL leads to it."""
        head, _, data = self.as_url().partition(",")
        kind, _, coding = head.removeprefix("data:").partition(";")
        return (kind or self.media_type, data) if head.startswith("data:") and coding.endswith("base64") else None


@frozen
class ToolCall:
    """The model's wish to call a tool. `arguments` is the JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str = "{}"

    def parsed(self) -> Any:
        """Return `arguments` as Python values.

        :raises ValueError: the model wrote something that is not JSON.
        """
        return json.loads(self.arguments or "{}")

    def as_object(self) -> dict[str, Any]:
        """Return `arguments` as an object, for a vendor that takes nothing else; other text as its one field."""
        try:
            found = self.parsed()
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {"arguments": self.arguments}


@frozen
class Tool:
    """A function that the model may ask to have called. `parameters` is its JSON Schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(factory=lambda: {"type": "object", "properties": {}})


@frozen
class State:
    """What only its vendor can read: signatures, encrypted thoughts.

    It goes back unchanged with its turn (`Completion.message`); the router keeps it from every other vendor.
    """

    vendor: str
    data: Any = field(repr=False)  #: of JSON's types
    model: str | None = None  #: who alone can read it, of the vendor's; None: any of them


@frozen
class Message:
    """One turn of a conversation.

    An assistant's turn may carry `tool_calls`; one of role `tool` gives the result of the call `tool_call_id`.
    """

    role: Role
    content: str | tuple[str | Image, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    state: State | None = None
    is_error: bool = False  #: of role tool: the call failed, and `content` says how

    def __attrs_post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant", "tool"):
            raise ValueError(f"Message.role: found {self.role!r}, expected system, user, assistant or tool")
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("Message: a message of role tool needs tool_call_id, the id of the call it answers")

    @property
    def text(self) -> str:
        """The text of this turn, without its images."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part for part in self.content if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of this turn, in order."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, Image))
