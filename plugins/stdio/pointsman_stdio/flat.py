"""A conversation as one text, for a program that takes nothing else."""

from __future__ import annotations

import hashlib

from pointsman import InvalidRequestError, Request

_SIGN = "\ufeff"  # at the beginning of their input, programs take it for a mark of its coding


def flat(request: Request, name: str, *, system: bool = False) -> tuple[str, tuple[str, ...]]:
    """Return the conversation as one text, and what is to be told of that.

    A single message is its own text. Else each turn begins with a line that names its role and has a mark that is in
    no text of the conversation, so that nobody who writes one of the turns can write another one.

    :param name: of the program, for messages.
    :param system: the system prompt stands in it, too.
    :raises InvalidRequestError: there is nothing to say.
    """
    turns = [(message.role, message.text) for message in request.messages]
    if system and request.system:
        turns.insert(0, ("system", request.system))
    if not any(text.strip() for _, text in turns):
        raise InvalidRequestError(f"{name} takes no empty prompt", try_next=True)
    if len(turns) == 1 and turns[0][0] == "user" and not turns[0][1].startswith(_SIGN):
        return turns[0][1], ()
    whole = "\n".join(text for _, text in turns)
    mark = hashlib.sha256(whole.encode()).hexdigest()[:8]
    while mark in whole:
        mark = hashlib.sha256(mark.encode()).hexdigest()[:8]
    spoken = (f"[{mark} {role}]\n{text}" for role, text in turns)
    head = f"A conversation. Each turn begins with a line that has {mark} and its role."
    return "\n\n".join((head, *spoken)), (f"{name} was given the conversation as one text",)
