"""Keeps the texts of control tokens out of what users write.

llama.cpp turns `<|im_end|>` in a prompt into the token that ends a turn, wherever it stands: whoever
writes it can speak as the system. A space after its first character takes that meaning away, and
the model still reads what was written.
"""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 512
#: What is put after the first character. The second is for files that know the text with the first in it.
_GAPS = (" ", "\u00b7")


class Markers:
    """The control tokens of one model. Immutable, so thread-safe.

    :param texts: what becomes a control token. However many there are, looking for them costs time
        in proportion to the text.
    """

    def __init__(self, texts: frozenset[str]) -> None:
        self._texts = frozenset(text for text in texts if text and len(text) <= _LONGEST)
        self._lengths = sorted({len(text) for text in self._texts}, reverse=True)
        first = "".join(sorted({re.escape(text[0]) for text in self._texts}))
        self._first = re.compile(f"[{first}]") if first else None

    def broken(self, text: str, found: set[str]) -> str:
        """Return `text` without control tokens, and add those that were in it to `found`."""
        for gap in _GAPS:
            pieces, last = [], 0
            for match in self._first.finditer(text) if self._first else ():
                start = match.start()
                if start < last or (marker := self._at(text, start)) is None:
                    continue
                found.add(marker)
                pieces.append(text[last:start] if len(marker) == 1 else text[last : start + 1] + gap)
                last = start + 1
            if not pieces:
                break
            text = "".join(pieces) + text[last:]
        return text

    def broken_all(self, value: Any, found: set[str]) -> Any:
        """Return JSON-like `value` with every text in it broken, those of keys too."""
        if isinstance(value, str):
            return self.broken(value, found)
        if isinstance(value, dict):
            return {self.broken_all(key, found): self.broken_all(item, found) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.broken_all(item, found) for item in value]
        return value

    def _at(self, text: str, start: int) -> str | None:
        for length in self._lengths:
            if (part := text[start : start + length]) in self._texts:
                return part
        return None
