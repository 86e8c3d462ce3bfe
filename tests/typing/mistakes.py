# ruff: noqa: B007, B018 - mistakes are what this file is for
"""What a user gets wrong. `test_typing` has it checked; a comment says the code of the error that mypy must find."""

from pointsman import Backend, Completion, Image, Message, Request, Router, Tool, hookimpl
from pointsman.http import Client
from pointsman_echo import Echo

from backends import OpenAIBackend

router = Router([Echo()])
Router([Echo()], timeout="60")  # -> arg-type
Router([Echo()], on_refusal="ask")  # -> arg-type
Router([Echo()], retries=3)  # -> call-arg
Router.from_config(5)  # -> arg-type
Backend(Echo(), prio=1)  # -> call-arg
Backend(Echo(), priority="first")  # -> arg-type

router.generate(5)  # -> arg-type
router.generate("Hello", max_token=5)  # -> call-arg
router.generate("Hello", max_tokens="5")  # -> arg-type
router.generate("Hello", local_only="yes")  # -> arg-type
router.generate("Hello", tools=[Tool(5)])  # -> arg-type
router.generate("Hello").txt  # -> attr-defined
router.generate("Hello").text = "changed"  # -> misc
router.generate("Hello").cost + 1.0  # -> operator
router.generate("Hello").usage.input_tokens  # -> union-attr
router.batch(["Hello"], max_token=5)  # -> call-arg
router.batch(["Hello"], on_result=5)  # -> arg-type
router.batch(["Hello"])[0].text  # -> union-attr
router.batch(5)  # -> arg-type
for chunk in router.astream("Hello"):  # -> attr-defined
    pass

Message("robot", "Hello")  # -> arg-type
Image("not bytes")  # -> arg-type
Completion(text=5)  # -> arg-type
Completion(text="x", finish_reason="end_turn")  # -> arg-type
Client(auth=("Authorization", "Bearer ", None))  # -> call-arg
OpenAIBackend(id="main", model=5)  # -> arg-type
OpenAIBackend(id="main").generate(["Hello"])  # -> list-item


class Shout:
    @hookimpl
    def generate(self, request: Request) -> Completion:
        return request.prompt.upper()  # -> return-value
