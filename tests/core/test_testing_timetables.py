"""What the fault server does by the clock, and what its log tells of time."""

import json
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest
from pointsman import Scope, UnavailableError
from pointsman.http import Client
from pointsman.testing import Answer, Ask, Clock, Event, FaultServer, WireError, faults

Server = Callable[..., FaultServer]
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def client() -> Iterator[Callable[[FaultServer], Client]]:
    """A function that makes a client of a server; all are closed at the end."""
    made: list[Client] = []

    def make(server: FaultServer) -> Client:
        made.append(Client(server.url))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(client: Client, text: str = "hello", **more: Any) -> str:
    """Ask, and return the text or the class of error."""
    body = {"messages": [{"role": "user", "content": text}], **more}
    try:
        answer = client.post_json("chat/completions", body, Scope(10.0))
    except UnavailableError as error:
        return type(error).__name__
    return str(answer.data["choices"][0]["message"]["content"])


class TestFlapping:
    """It fails for some time by the clock, then works."""

    def test_down_then_up(self, fault_server: Server, client: Any) -> None:
        """The time begins with the first request, and not with the server."""
        clock = Clock()
        server = fault_server(faults.flapping(60), clock=clock)
        one = client(server)
        clock.advance(1000)
        assert ask(one) == "UnavailableError"
        clock.advance(50)
        assert ask(one) == "UnavailableError"
        clock.advance(10)
        assert ask(one) == "You said: hello"
        clock.advance(1e6)
        assert ask(one) == "You said: hello"

    def test_again_and_again(self, fault_server: Server, client: Any) -> None:
        """With seconds up it falls again; what it plays can be chosen."""
        clock = Clock()
        script = faults.flapping(10, 20, down=faults.status(529), up=faults.well("up"))
        one = client(fault_server(script, clock=clock))
        found = []
        for _ in range(7):
            found.append(ask(one))
            clock.advance(10)
        assert found == ["UnavailableError", "up", "up"] * 2 + ["UnavailableError"]

    def test_as_a_step(self, fault_server: Server, client: Any) -> None:
        """It stands in a script like any fault; as the last one it stays."""
        clock = Clock()
        server = fault_server([faults.well("first"), faults.flapping(5)], clock=clock)
        one = client(server)
        assert [ask(one), ask(one)] == ["first", "UnavailableError"]
        clock.advance(6)
        assert ask(one) == "You said: hello"
        assert [seen.fault for seen in server.asked] == ["well('first')", "status(503)", "well()"]

    def test_any_timetable(self, fault_server: Server, client: Any) -> None:
        """Several parts come one after another."""
        clock = Clock()
        parts = [(1, faults.well("a")), (1, faults.well("b")), (inf, faults.well("c"))]
        one = client(fault_server(faults.Timetable(*parts), clock=clock))
        found = []
        for _ in range(4):
            found.append(ask(one))
            clock.advance(1)
        assert found == ["a", "b", "c", "c"]

    @pytest.mark.parametrize("parts", [(), ((0, faults.well()),), ((-1, faults.well()), (5, faults.well()))])
    def test_nonsense(self, parts: Any) -> None:
        """A timetable that could play nothing is told where it is made."""
        with pytest.raises(ValueError, match="Timetable: expected"):
            faults.Timetable(*parts)


def test_a_script_may_look_at_the_request(fault_server: Server, client: Any) -> None:
    """A function of what was seen decides: by the prompt, whatever the wire, or anything else of it."""
    server = fault_server(lambda seen: faults.status(500) if "bad" in seen.prompt else faults.well(seen.prompt.upper()))
    one = client(server)
    assert [ask(one, "a"), ask(one, "bad"), ask(one, "c")] == ["A", "UnavailableError", "C"]
    one.post_json("responses", {"input": "of another wire"}, Scope(10.0))
    assert server.asked[-1].prompt == "of another wire"


class TestLog:
    """When, and by whom."""

    def test_who_closed(self, fault_server: Server, client: Any) -> None:
        """Each connection knows when it was opened and closed, and which side did that."""
        server = fault_server([faults.hang_up(), faults.silent(), faults.well()])
        one = client(server)
        ask(one)
        with pytest.raises(UnavailableError):
            one.post_json("chat/completions", {}, Scope(1.0))
        assert server.asked[1].wait_closed()
        assert ask(one) == "You said: hello"
        assert server.visits[2].closed_by is None
        assert [seen.visit.number for seen in server.asked] == [1, 2, 3]
        server.stop()
        assert [visit.closed_by for visit in server.visits] == ["server", "client", "server"]
        for visit in server.visits:
            assert visit.closed_at is not None
            assert visit.opened_at <= visit.closed_at

    def test_kept_connections(self, fault_server: Server, client: Any) -> None:
        """Requests that share a connection say so."""
        server = fault_server()
        one = client(server)
        assert {ask(one) for _ in range(3)} == {"You said: hello"}
        assert [seen.visit for seen in server.asked] == [server.visits[0]] * 3

    def test_stopping_is_the_servers_doing(self, fault_server: Server, client: Any) -> None:
        """A connection that ends because the server stops was not closed by the client."""
        server = fault_server()
        assert ask(client(server))
        server.stop()
        assert [visit.closed_by for visit in server.visits] == ["server"]
        assert server.log[0].closed_at is None

    def test_times_are_of_its_clock(self, fault_server: Server, client: Any) -> None:
        """What was put forward is in the log too."""
        clock = Clock()
        server = fault_server(clock=clock)
        one = client(server)
        ask(one)
        clock.advance(500)
        ask(one)
        first, second = server.asked
        assert 500 <= second.arrived_at - first.arrived_at < 600
        assert second.ended_at is None or second.ended_at >= second.arrived_at

    def test_history(self, fault_server: Server, client: Any) -> None:
        """A person can read what happened, in its order."""
        clock = Clock()
        server = fault_server([faults.hang_up(), faults.well()], clock=clock)
        one = client(server)
        ask(one)
        clock.advance(60)
        ask(one)
        server.stop()
        lines = [line.split(" s  ", 1) for line in server.history().splitlines()]
        assert [what for _, what in lines if "played" not in what] == [
            "connection 1 opened",
            "request 1 on connection 1: hang_up()",
            "connection 1 closed by the server",
            "connection 2 opened",
            "request 2 on connection 2: well()",
            "connection 2 closed by the server",
        ]
        times = [float(at) for at, _ in lines]
        assert times == sorted(times)
        assert times[0] == 0
        assert times[-1] >= 60


class Flat:
    """A wire format without a list in it."""

    def ask(self, body: Any) -> Ask:
        return Ask(prompt=body["say"], streamed=body.get("stream") is True)

    def body(self, answer: Answer, ask: Ask) -> Any:
        return {"said": answer.text, "end": answer.finish_reason}

    def events(self, answer: Answer, ask: Ask) -> list[Event]:
        return [*(Event({"word": word}) for word in answer.pieces), Event({"end": answer.finish_reason}, "finish")]

    def error(self, error: WireError) -> Any:
        return {"wrong": error.message}

    def error_event(self, error: WireError) -> Event:
        return Event(self.error(error), "error")


class Nested(Flat):
    """A wire format whose text is in a list of another name."""

    def body(self, answer: Answer, ask: Ask) -> Any:
        return {"result": {"parts": [{"said": answer.text}]}, "end": answer.finish_reason}


@pytest.mark.parametrize(
    ("wire", "expected"),
    [(Flat(), {"said": None, "end": "stop"}), (Nested(), {"result": {"parts": []}, "end": "stop"})],
)
def test_empty_choices_of_any_wire(fault_server: Server, client: Any, wire: Flat, expected: Any) -> None:
    """An answer with nothing in it says nothing, whatever the wire calls its parts."""
    one = client(fault_server(faults.empty_choices(), wires={"/say": wire}))
    assert one.post_json("say", {"say": "hi"}, Scope(10.0)).data == expected
    with one.post_events("say", {"say": "hi", "stream": True}, Scope(10.0)) as events:
        assert [json.loads(event.data) for event in events] == [{"end": "stop"}]
