"""What a user of Pointsman writes. `test_typing` has it checked; a comment says the type that mypy must see."""

import asyncio
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import reveal_type

from attrs import evolve, frozen
from mediator import Mediator
from pointsman import (
    AllBackendsFailed,
    Backend,
    BackendError,
    Chunk,
    Completion,
    Health,
    Image,
    IncompleteAnswer,
    Message,
    Options,
    Request,
    Router,
    Secret,
    Tool,
    hookimpl,
)
from pointsman.http import Client
from pointsman_echo import Echo
from pointsman_local import Local
from pointsman_openai import OpenAI

from backends import LLMRouterBackend, OpenAIBackend, WorkstationBackend


@frozen
class Shout:
    suffix: str = "!"
    api_key: Secret | None = None

    @hookimpl
    def generate(self, request: Request) -> Completion:
        reveal_type(request.prompt)  # -> str
        reveal_type(request.scope.remaining())  # -> float
        reveal_type(Client("http://127.0.0.1:1").get_json("models", request.scope).data)  # -> Any
        return Completion(text=request.prompt.upper() + self.suffix)

    @hookimpl
    def stream(self, request: Request) -> Iterator[Chunk]:
        yield Chunk("A", finish_reason="stop")

    @hookimpl
    def health(self) -> Health:
        return Health.ok()


reveal_type(Shout().generate)  # -> def (request: pointsman.values.Request) -> pointsman.values.Completion


@frozen
class Polite:
    @hookimpl(wrapper=True)
    def generate(self, request: Request) -> Generator[None, Completion, Completion]:
        answer = yield
        return evolve(answer, text=answer.text + " Thank you.")


@frozen
class Last:
    @hookimpl
    def order(self, request: Request, backends: Sequence[Backend]) -> Sequence[Backend]:
        return backends[::-1]


Router()
Router([Shout(), Echo(suffix="!"), OpenAI(model="m", api_key="k"), Local(n_ctx=512)])
Router({"main": Shout(), "spare": Backend(Shout(), priority=3)}, middleware=[Polite()], order=Last())
Router.from_config(Path("pointsman.toml"))
options: Options = {"max_tokens": 5, "timeout": 2.5}

with Router.from_config({"BACKENDS": []}) as router:
    answer = router.generate("Hello", **options)
    reveal_type(answer)  # -> pointsman.values.Completion
    reveal_type(answer.text)  # -> str
    reveal_type(answer.backend)  # -> str | None
    reveal_type(answer.cost)  # -> float | None
    reveal_type(answer.attempts)  # -> tuple[pointsman.values.Attempt, ...]
    reveal_type(answer.attempts[0].duration_s)  # -> float
    reveal_type(answer.tool_calls[0].parsed())  # -> Any
    reveal_type(answer.usage)  # -> pointsman.values.Usage | None
    router.generate([Message("user", ("What is it?", Image(b"...")))], schema={"type": "object"}, local_only=True)
    router.generate([{"role": "user", "content": "Hello"}], tools=[Tool("now"), {"name": "then"}], backend="main")
    router.generate("Hello", system="Be brief.", stop="end", temperature=0)
    router.generate(Request((Message("user", "Hello"),)))
    with router.stream("Hello") as stream:
        for chunk in stream:
            reveal_type(chunk)  # -> pointsman.values.Chunk
        reveal_type(stream.completion)  # -> pointsman.values.Completion
    results = router.batch(["a", {"id": 1, "prompt": "b"}], 8, timeout=None, journal=Path("run.db"), max_tokens=64)
    reveal_type(results[0])  # -> pointsman.values.Completion | pointsman.errors.BackendError
    reveal_type(results[1:])  # -> typing.Sequence[pointsman.values.Completion | pointsman.errors.BackendError]
    router.batch((str(n) for n in range(9)), on_result=lambda place, result: print(place, result), retry_failed=True)
    reveal_type(router.health())  # -> dict[str, pointsman.values.Health]
    reveal_type(router.order("Hello")[0].position)  # -> int | None
    reveal_type(router.plugins()[0].cause)  # -> str
    reveal_type(router.backends)  # -> tuple[pointsman._backends.Backend, ...]
    try:
        router.generate("Hello")
    except AllBackendsFailed as error:
        reveal_type(error.exceptions[0].retry_after)  # -> float | None
    except IncompleteAnswer as error:
        reveal_type(error.text)  # -> str
    except BackendError as error:
        reveal_type(error.attempts)  # -> tuple[pointsman.values.Attempt, ...]


async def main() -> None:
    reveal_type(await router.agenerate("Hello"))  # -> pointsman.values.Completion
    async for piece in router.astream("Hello", max_tokens=5):
        reveal_type(piece.text)  # -> str


asyncio.run(main())
main_backend = OpenAIBackend(id="main", model="gpt-4o-mini")
chain = LLMRouterBackend(id="llm", provider="openai", fallback_providers=["workstation", main_backend])
reveal_type(chain.generate("Hello", max_tokens=5))  # -> str
reveal_type(chain("Hello"))  # -> str
reveal_type(chain.batch_generate(["Hello"], max_workers=2, timeout=9.5))  # -> list[str]
reveal_type(WorkstationBackend(id="spare").router)  # -> pointsman.router.Router
with Mediator([chain], path="case", identity=Path("key.txt"), recipients=["age1..."]) as mediator:
    reveal_type(mediator.submit_evidence(b"...", "document", metadata={"page": 1}))  # -> dict[str, Any]
    reveal_type(mediator.get_evidence_by_cid("bafk..."))  # -> dict[str, Any] | None
    reveal_type(mediator.retrieve_evidence("bafk..."))  # -> bytes
    reveal_type(mediator.get_user_evidence("anna"))  # -> list[dict[str, Any]]
    reveal_type(mediator.generate("Hello", max_tokens=5))  # -> str
    reveal_type(mediator.router)  # -> pointsman.router.Router | None
    reveal_type(mediator.store)  # -> pointsman.store.Store
