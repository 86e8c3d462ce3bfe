"""The mediator: evidence comes in, and is found again; backends are asked about it."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Unpack

from backends._configuration import made_of, with_receipts
from backends.text_backend import Prompt, TextBackend, chained
from pointsman import (
    AllBackendsFailed,
    AuthenticationError,
    BackendError,
    Completion,
    ConfigError,
    ContentNotFoundError,
    InvalidRequestError,
    Options,
    Router,
    Secret,
    Store,
    UnusableAnswer,
)
from pointsman.config import load, sealed

from .analysis import TOKENS, analyzed
from .state import EvidenceState, State, described, user_of
from .stores import default_store

if TYPE_CHECKING:
    from pointsman_ipfs.evidence import Evidence, Record

#: A private key of age or of SSH, the text of a key file, or the path of one.
Identity: TypeAlias = "str | Secret | Path"

_EXPECTED = (
    "a backend of the package `backends`, one of Pointsman, or a callable, or method `generate`, of text to text"
)


class Mediator:
    """Keeps evidence so that it can be proven later, and asks backends about it. Thread-safe, apart from `state`.

    Each submission is a record in a store, which says who described which bytes, how and when, and links to the record
    before it. `router` is the `pointsman.Router` that asks the backends, `store` the `pointsman.Store`.

    :param backends: what is asked, in this order, until one answers: `LLMRouterBackend`, `OpenAIBackend` ..., one or a
        list; or what `backends.load` returned. A callable that takes a text and returns one is a backend, too, or what
        has such a method `generate`. They stay open when the mediator is closed. Evidence needs none.
    :param store: keeps the evidence; it stays open when the mediator is closed. Without: the embedded store of this
        machine, and the IPFS node at its usual address if one answers.
    :param path: a folder of this mediator's own: for the embedded store, and for the index of evidence.
    :param recipients: public keys of age, or of SSH. What is submitted is encrypted for them before it is stored.
    :param identity: the private key that opens it: its text, or the path of a key file.
    :param evidence_db_path: the file of the index, in place of the one that `path` or the store has.
    :param legal_authority_db_path: accepted for programs that give it; nothing here has a use for it.
    :param claim_support_db_path: the same.
    :raises ConfigError: an argument is wrong.
    """

    def __init__(  # noqa: PLR0913 - the complaint generator's own names
        self,
        backends: object = (),
        store: Store | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        recipients: str | Iterable[str] | None = None,
        identity: Identity | Iterable[Identity] | None = None,
        evidence_db_path: str | os.PathLike[str] | None = None,
        legal_authority_db_path: object = None,
        claim_support_db_path: object = None,
    ) -> None:
        keys = sealed({"recipients": recipients, "identity": identity})
        del recipients, identity  # a traceback that shows local variables would show a key, also in the wrong place
        from pointsman_ipfs.evidence import Evidence

        if store is not None and not isinstance(store, Store):
            found = f"found {type(store).__name__}, expected a pointsman.Store"
            raise ConfigError(f"Mediator.store: {found}; for the folder of an embedded one, give path=")
        self.backends = _listed(backends)
        self.router = _asking(self.backends)
        self.state = State()
        self._options: Mapping[str, Any] = {}
        folder, index = _path("path", path), _path("evidence_db_path", evidence_db_path)
        if index is None and folder is not None and store is not None:
            index = folder / "evidence.sqlite"  # else it is there, beside the content, and ours to mend
        with ExitStack() as own:
            self.store = own.enter_context(default_store(folder)) if store is None else store
            of = None  # who has a folder of its own has no part in what others keep on the same node
            if store is None and folder is not None:
                of = [one.id for one in self.store.stores if one.folder is not None]
            self._evidence = own.enter_context(Evidence(self.store, index, stores=of, **keys))
            self._own = own.pop_all()
        self._closed = False
        self.evidence_state = EvidenceState(lambda: self.evidence, lambda: user_of(self.state))

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any], **options: Any) -> Self:
        """Return the mediator that a JSON or TOML file, or a mapping of the same form, describes.

        MEDIATOR names its backends, in order (all of BACKENDS without that), and may set `timeout` and `max_retries` of
        each question; STORES says where evidence is kept, and nothing else is looked for. `close` closes all of them.

        :param options: what the constructor takes, apart from `backends`. A `store` goes before STORES.
        :raises ConfigError: with every problem in the file, each with its path; or an option is wrong.
        """
        source, options = sealed(source), sealed(options)
        settings = load(source)
        section = settings.mediator
        with ExitStack() as own:
            if options.get("store") is None and settings.stores:
                options = sealed({**options, "store": own.enter_context(Store(settings.stores))})
            made = made_of(settings, options.get("store"))
            for backend in made.values():
                own.enter_context(backend)
            chosen = [_named_in(made, place, name) for place, name in enumerate(section.get("backends") or made)]
            router = None
            if chosen:
                how = with_receipts(settings.router, options.get("store"))
                router = own.enter_context(Router(chained(chosen, "MEDIATOR.backends", _EXPECTED), **how))
            mediator = cls(router, **options)
            mediator.backends = list(chosen)
            mediator._options = {name: section[name] for name in ("timeout", "max_retries") if name in section}
            mediator._own.push(own.pop_all())
        return mediator

    # -- evidence ----------------------------------------------------------------------------------

    @property
    def evidence(self) -> Evidence:
        """What keeps and finds records, with all that it can.

        :raises ConfigError: the mediator is closed.
        """
        if self._closed:
            raise ConfigError("this mediator is closed; make another one")
        return self._evidence

    def submit_evidence(
        self,
        data: bytes | Path,
        evidence_type: str,
        user_id: str | None = None,
        description: str | None = None,
        claim_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Keep a piece of evidence with what is said of it. It is durable when this returns.

        :param data: the bytes themselves. Text is none: encode it, or hand in the file that it stands in.
        :param evidence_type: document, image, video, audio, email, text, financial, medical, other, or what you like.
        :param user_id: whose it is; without, `state.username`, or "anonymous".
        :param metadata: what JSON can hold. Its `mime_type` is the media type; else that is guessed.
        :returns: what the record says, with `stored_in` and `waiting_for`: the ids of the stores that have it, and of
            those that get it as soon as they can.
        :raises InvalidRequestError: it is no bytes, or something else is not what it should be.
        :raises BackendError: it is in no store.
        """
        from pointsman_ipfs.evidence import About

        about = About(
            evidence_type,
            description,
            claim_type,
            user_of(self.state) if user_id is None else user_id,
            _media_type(metadata),
            metadata or {},
        )
        filed = self.evidence.submit(data, about)
        nodes = {one.id for one in self.store.stores if one.type == "kubo"}
        return {
            **described(filed.record),
            "stored_in": list(filed.stored_in),
            "waiting_for": list(filed.waiting_for),
            "ipfs_available": not nodes.isdisjoint((*filed.stored_in, *filed.waiting_for)),
        }

    def submit_evidence_file(
        self,
        file_path: str | os.PathLike[str],
        evidence_type: str,
        user_id: str | None = None,
        description: str | None = None,
        claim_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Keep a file, of any size, as `submit_evidence` does. Its name goes into the metadata, as `filename`.

        :raises InvalidRequestError: it cannot be read, is a folder, or was changed while it was read.
        """
        if not isinstance(file_path, str | os.PathLike):
            raise InvalidRequestError(f"file_path: found {type(file_path).__name__}, expected a path")
        if not os.fspath(file_path):
            raise InvalidRequestError("file_path: found an empty path, expected that of a file")
        path = Path(file_path)
        if metadata is None or isinstance(metadata, Mapping):
            try:
                name = os.fsencode(path.name).decode(errors="replace")  # on disks there are names that are no text
            except UnicodeEncodeError:
                raise InvalidRequestError(f"file_path: found {str(path)!a:.200}, which no file is called") from None
            metadata = {"filename": name, **(metadata or {})}
        return self.submit_evidence(path, evidence_type, user_id, description, claim_type, metadata)

    def get_evidence_by_cid(self, cid: str, *, with_data: bool = True) -> dict[str, Any] | None:
        """Return the evidence that has this CID, or whose record has it; None if nobody submitted such.

        All of its bytes are read and hashed now, also without `with_data`: what is returned is `verified`. If it was
        submitted several times, this is what was said of it last; `records` has all that was, the earliest first. Who
        has made up a record of it keeps nobody from it: one that names other bytes, or another size, is passed over
        where another one is right, and `unsound` says so.

        :param with_data: whether the bytes themselves are in it, as `data`.
        :raises InvalidRequestError: it is no CID.
        :raises ContentNotFoundError: the bytes are in no store any more.
        :raises UnusableAnswer: they are damaged, in every store that has them.
        :raises AuthenticationError: they are encrypted, and there is no key that opens them.
        """
        if not (records := self.evidence_state.find(cid)):
            return None

        def read(record: Record) -> bytes:
            pieces = BytesIO()
            with open(os.devnull, "wb") as nowhere:
                size = self.evidence.write(record, pieces if with_data else nowhere)
            if size != record.size:
                raise UnusableAnswer(f"it has {size:,} bytes, and its record says {record.size:,}: that is wrong")
            return pieces.getvalue()

        record, data, unsound = _sound(records, read)
        found = {**described(record), "records": [described(one) for one in records], "unsound": unsound}
        if with_data:
            found["data"] = data
        return {**found, "verified": True}

    def retrieve_evidence(self, cid: str) -> bytes:
        """Return the bytes of the evidence that has this CID, or whose record has it, verified now.

        What no record of this index has is looked for in the store by its CID, and returned as it stands there.
        Raises as `get_evidence_by_cid`, and `ContentNotFoundError` for what is unknown.
        """
        if records := self.evidence_state.find(cid):
            return _sound(records, self.evidence.read)[1]
        try:
            return self.store.get(cid.strip())
        except ContentNotFoundError as error:
            advice = "see that the CID is whole, and that this is the store where it was submitted (store=, path=)"
            raise ContentNotFoundError(
                f"{cid}: no record has this CID, and no store has its bytes: {advice}"
            ) from error

    def get_user_evidence(self, user_id: str | None = None) -> list[dict[str, Any]]:
        """Return what the records of a user say, the newest first; without, of the one that `state` names."""
        return self.evidence_state.get_user_evidence(user_id)

    def analyze_evidence(
        self, user_id: str | None = None, claim_type: str | None = None, **options: Unpack[Options]
    ) -> dict[str, Any]:
        """Return what there is of a user's evidence, for a claim or in all, what is missing, and a recommendation.

        `total_evidence`, `evidence_by_type`, `gaps` (a sentence each) and `evidence_items` come from the records. The
        `recommendation` is asked from the backends, which are told the CIDs, types, dates and descriptions of up to
        twenty pieces, and no content. It ends with the pieces that it cites, by their CIDs; CIDs in it that are of no
        such piece are in `unknown_citations`. Where no backend answers, it says so, as `recommendation_error` does.
        `sealed` is how many records, whoever's, are encrypted and cannot be opened here; a gap says so.

        :param options: of the question, as `generate` takes them.
        """
        options.setdefault("max_tokens", TOKENS)
        ask = partial(self._answer, **options)
        user = user_of(self.state) if user_id is None else user_id
        sealed = self.evidence_state.get_evidence_statistics(user)["sealed"]
        evidence = self.evidence_state.get_user_evidence(user, claim_type)
        return analyzed(evidence, user, claim_type, sealed, ask)

    # -- the rest ----------------------------------------------------------------------------------

    def generate(self, prompt: Prompt, **options: Unpack[Options]) -> str:
        """Return the text of the first backend that answers. Takes and raises what `LLMRouterBackend.generate` does.

        Where this mediator encrypts, each question is `private`: its receipt has digests only.
        """
        return self._answer(prompt, **options).text

    def query_backend(self, prompt: Prompt) -> str:
        """Do as `generate`."""
        return self.generate(prompt)

    def _answer(self, prompt: Prompt, **options: Unpack[Options]) -> Completion:
        if self.evidence.encrypts:  # else nothing that is encrypted is known here
            options["private"] = True
        if self.router is None:
            raise ConfigError("this mediator has no backend: give it one, as in Mediator(backends=[backend])")
        every = {"drop_unsupported": "max_tokens", **self._options, **options}
        return self.router.generate(prompt, **every)

    def close(self) -> None:
        """Let go what the mediator has itself made: the index, and the store if none was given. Once is enough."""
        self._closed = True
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sound(records: Sequence[Record], read: Callable[[Record], bytes]) -> tuple[Record, bytes, list[str]]:
    """Return the last of these records whose evidence is what it says, what was read, and what is wrong with others.

    Those that are encrypted go first: who knows the age file alone can make up one of that, in clear.
    """
    wrong = list[BackendError]()
    one_of_each: dict[tuple[str, bool, int], Record] = {}
    in_turn = sorted(records, key=lambda one: one.encrypted)
    for record in reversed(in_turn):
        one_of_each.setdefault((record.plain_cid, record.encrypted, record.size), record)
    for record in one_of_each.values():
        try:
            with _named(record):
                return record, read(record), [error.message for error in wrong]
        except (UnusableAnswer, AuthenticationError) as error:
            wrong.append(error)
    raise wrong[0]


@contextmanager
def _named(record: Record) -> Iterator[None]:
    """Say which evidence it is that cannot be read, and what a person can do about it."""
    try:
        yield
    except (UnusableAnswer, ContentNotFoundError, AllBackendsFailed) as error:
        one = described(record)
        what = f"{one['description'] or 'no description'!r}, submitted {one['timestamp']}, record {record.record_cid}"
        again = (
            "the file, if somebody still has it, can be submitted again: the same bytes get the same CID, and mend it"
        )
        advice = "bring it back from a copy of the store" if record.encrypted else again
        error.args = (f"evidence {record.cid} ({what}) cannot be read: {error.message}; {advice}", *error.args[1:])
        raise


def _named_in(made: Mapping[str, TextBackend], place: int, name: str) -> TextBackend:
    if name not in made:  # it is one, in the fallbacks of another one
        raise ConfigError(f"MEDIATOR.backends[{place}]: found {name!r}, expected one of {', '.join(map(repr, made))}")
    return made[name]


def _listed(given: object) -> list[object]:
    """Return the backends that somebody gave: several, several by their ids, or one."""
    if isinstance(given, Mapping):
        return list(given.values())
    return list(given) if isinstance(given, Iterable) else [] if given is None else [given]


def _asking(backends: Sequence[object]) -> Router | None:
    """Return what asks these backends, in this order; None if there are none."""
    if len(backends) == 1 and isinstance(backends[0], TextBackend | Router):
        return backends[0].router if isinstance(backends[0], TextBackend) else backends[0]
    return Router(chained(backends, "Mediator.backends", _EXPECTED)) if backends else None


def _path(name: str, given: object) -> Path | None:
    """Return the path that somebody gave, if any."""
    if given is None:
        return None
    found = "an empty text" if given == "" else type(given).__name__
    if isinstance(given, str | os.PathLike) and os.fspath(given):
        try:
            path = Path(given).expanduser().absolute()
            with suppress(OSError):
                path.lstat()
        except (TypeError, ValueError, RuntimeError):  # a zero byte, half a surrogate; a path of bytes; nobody's home
            found = f"{os.fspath(given)!a:.200}, which nothing is called"
        else:
            return path
    raise ConfigError(f"Mediator.{name}: found {found}, expected a path")


def _media_type(metadata: object) -> str | None:
    """Return the media type that metadata say, or the one of the file name in them."""
    if not isinstance(metadata, Mapping):
        return None
    said, name = metadata.get("mime_type"), metadata.get("filename")
    if isinstance(said, str) and said:
        return said
    return mimetypes.guess_type(name)[0] if isinstance(name, str) else None
