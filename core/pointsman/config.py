"""Settings from a JSON or TOML file, or from a dict: checked, with every problem told at once.

What may be written are the arguments of `Backend` and of `Router`, and the options of the plugins'
classes. Only a plugin that an enabled backend names is imported. No value here shows a key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar, overload

from attrs import NOTHING, define, field, frozen

from ._backends import PRESETS, Backend
from ._discovery import MIDDLEWARE, ORDERS, PROVIDERS, STORES, Catalogue, cause, receipts_class
from ._settings import Only, Retries, RouterSettings, Seconds
from ._stores import StoreBackend
from ._structure import Fields, Walk, fields_of, found, nearest
from ._written import Misfit, Written, read
from .errors import ConfigError

T = TypeVar("T")
Source: TypeAlias = "str | Path | Mapping[str, Any]"
_Entry: TypeAlias = Annotated[Written, Only(bool, "with id and type")]

#: Other names of types, as the complaint generator writes them.
ALIASES = {"workstation": "local", "huggingface": "hf", "anthropic": "claude"}
ALIASES |= {"copilot_cli": "copilot", "codex_cli": "codex"}
#: Providers that we publish: a backend of one that is not installed costs no other.
PUBLISHED = ("openai", "openrouter", "hf", "claude", "gemini", "codex", "copilot", "local")
#: Places of the backends that nobody configured: other people's machines, this one, the demonstration model.
_REMOTE, _LOCAL, _DEMONSTRATION = 100, 200, 1000

_NEEDED = {name: fields_of(Backend)[name].evolve(default=NOTHING) for name in ("id", "type")}


class _Kind(NamedTuple):
    """Backends, or stores."""

    group: str  #: of entry points
    common: Fields  #: what each of them may have; all else must be a field of its plugin's class
    published: Mapping[str, str]  #: type -> its distribution


def _common(*fields: Fields) -> Fields:
    every = {name: option for some in (*fields, _NEEDED) for name, option in some.items()}
    return {name: option for name, option in every.items() if name not in ("provider", "defaults", "missing")}


_BACKENDS = _Kind(PROVIDERS, _common(fields_of(Backend), PRESETS), {name: f"pointsman-{name}" for name in PUBLISHED})
_STORES = _Kind(
    STORES, _common(fields_of(StoreBackend)), dict.fromkeys(("blocks", "kubo", "gateway"), "pointsman-ipfs")
)
#: The names that every backend may have; all others must be fields of the provider's class.
COMMON = frozenset(_BACKENDS.common)


@frozen
class _Mediator:
    backends: tuple[str, ...] = ()
    timeout: Seconds | None = None
    max_retries: Retries | None = None


@frozen
class _Sections:
    BACKENDS: tuple[_Entry, ...] = ()
    MEDIATOR: Written | None = None
    ROUTER: Written | None = None
    STORES: tuple[_Entry, ...] = ()


@frozen
class Settings:
    """A whole configuration, checked. What was not written is in none of the mappings."""

    backends: tuple[Backend, ...] = ()
    paths: tuple[str, ...] = ()  #: where each of them stands: "BACKENDS[0]"
    chains: tuple[str, ...] = ()  #: the paths of those that are the first of an `llm_router`
    router: Mapping[str, Any] = field(factory=dict)  #: arguments of `Router`
    mediator: Mapping[str, Any] = field(factory=dict)
    stores: tuple[StoreBackend, ...] = ()


@overload
def sealed(source: Mapping[str, Any]) -> Mapping[str, Any]: ...
@overload
def sealed(source: Source) -> Source: ...
def sealed(source: Source) -> Source:
    """Return `source` in a form whose repr shows no key: for the frames that a traceback may show."""
    return Written(source) if isinstance(source, Mapping) else source


def load(source: Source, *, catalogue: Catalogue | None = None) -> Settings:
    """Return the settings that `source` holds: the path of a JSON or TOML file, or a mapping of the same form.

    :param catalogue: the installed plugins, where the caller has them already.
    :raises ConfigError: with one line for each problem, each with its path.
    """
    source, reader = sealed(source), _Reader(catalogue=catalogue or Catalogue())
    settings = reader.settings(source)
    problems = reader.told()
    if problems:
        del settings, reader  # a traceback that shows local variables would show what stands at the wrong option
        raise ConfigError(*problems)
    return settings


def build(cls: Any, options: Mapping[str, Any], path: str, **given: Any) -> Any:
    """Return `cls` built from `options`, which stand at `path` of the configuration.

    Names that every backend has (`COMMON`) are passed over unless `cls` has such a field.

    :param given: further arguments, which no configuration has.
    :raises ConfigError: with one line for each misfit: unknown, missing, of the wrong type, refused
        by the class, or a variable that is not set.
    """
    return _built(cls, options, path, COMMON, given)


def _built(cls: Any, options: Mapping[str, Any], path: str, also: Collection[str], given: Mapping[str, Any]) -> Any:
    walk = Walk(getattr(options, "folder", None))
    taken = walk.options(fields_of(cls), options, path, also)
    if not walk.problems:
        try:
            return cls(**taken, **given)
        except (Exception, SystemExit) as error:
            walk.refused(error, path)
    problems = walk.told()
    del options, taken, walk  # a traceback that shows local variables would show what they hold
    raise ConfigError(*problems)


def receipts_of(
    catalogue: Catalogue, options: bool | Mapping[str, Any], store: object | None
) -> list[tuple[str, object]]:
    """Return the plugin that keeps receipts, in this store if there is one, with its name.

    :raises ConfigError: it is not installed, or an option is wrong.
    """
    if options is not True and not isinstance(options, Mapping):
        raise ConfigError(f"receipts: found {type(options).__name__}, expected True, False, or a mapping of options")
    given = {} if store is None else {"store": store}
    return [("receipts", _built(receipts_class(catalogue), {} if options is True else options, "receipts", (), given))]


def installed(catalogue: Catalogue) -> list[Backend]:
    """Return a backend for each installed provider that can be built without options."""
    made = []
    for name, provider in catalogue.built(PROVIDERS):
        local = _LOCAL if getattr(provider, "local", False) else _REMOTE
        priority = _DEMONSTRATION if getattr(provider, "demonstration", False) else local
        made.append(Backend(provider, type=name, priority=priority))
    return made


@define(repr=False, kw_only=True)
class _Reader(Walk):
    """Reads one configuration, and keeps what is wrong with it."""

    catalogue: Catalogue

    def settings(self, source: Source) -> Settings:
        """Return what is right in the sections."""
        try:
            raw = read(source)
        except Misfit as misfit:
            self.tell(str(source) if isinstance(source, str | Path) else "configuration", *misfit.args)
            return Settings()
        self.folder, ids = raw.folder, dict[str, str]()
        sections = self.options(fields_of(_Sections), raw, "")
        entries = _unfolded(sections, self.catalogue)
        built = {entry.path: made for entry in entries if (made := self._backend(entry, ids))}
        self.problems.sort(key=lambda problem: not problem.path.startswith("BACKENDS"))  # first what comes first
        router = self.options(fields_of(RouterSettings), sections.get("ROUTER") or {}, "ROUTER")
        self._check_plugin(ORDERS, router.get("order"), "ROUTER.order")
        for place, name in enumerate(router.get("middleware", ())):
            self._check_plugin(MIDDLEWARE, name, f"ROUTER.middleware[{place}]")
        self._check_receipts(router.get("receipts", False))
        mediator = self.options(fields_of(_Mediator), sections.get("MEDIATOR") or {}, "MEDIATOR")
        for place, name in enumerate(mediator.get("backends", ())):
            if name is not None and name not in ids:
                advice = f"expected the id of a backend; {nearest(repr(name), map(repr, ids))}"
                self.tell(f"MEDIATOR.backends[{place}]", f"found {found(name)}, {advice}")
        stores, store_ids = list[StoreBackend](), dict[str, str]()
        for place, (path, entry) in enumerate(_entries(sections, "STORES"), 1):
            stores += self._store(_Unfolded(path, f"{path}.type", entry), store_ids, 10.0 * place)
        chains = tuple(path for path, entry in _entries(sections, "BACKENDS") if entry.get("type") == "llm_router")
        return Settings(tuple(built.values()), tuple(built), chains, router, mediator, tuple(stores))

    def _check_plugin(self, group: str, name: str | None, path: str) -> None:
        try:
            if name is not None:
                self.catalogue.load(group, name)
        except ConfigError as error:
            self.tell(path, str(error))

    def _check_receipts(self, receipts: bool | Written) -> None:
        try:
            cls = None if receipts is False else receipts_class(self.catalogue)
            if isinstance(receipts, Written):
                self.options(fields_of(cls), receipts, "ROUTER.receipts")
        except ConfigError as error:
            self.tell("ROUTER.receipts", str(error))

    def _identified(self, fields: Fields, entry: Mapping[str, Any], path: str, ids: dict[str, str]) -> dict[str, Any]:
        """Return what an entry says of `fields`; `ids` are the paths of the ids that are taken."""
        given = self.options(fields, entry, path, also=entry)
        if "id" in given and (other := ids.setdefault(given["id"], path)) != path:
            advice = "each provider is listed once" if "fallback" in path else "give each its own"
            self.tell(f"{path}.id", f"found {found(given['id'])}, which {other} has; {advice}")
        return given

    def _backend(self, unfolded: _Unfolded, ids: dict[str, str]) -> Backend | None:
        """Return what an entry describes, or None after telling what is wrong."""
        read = self._plugin(_BACKENDS, unfolded, ids)
        if read is None:
            return None
        given, cls, options, missing = read
        path, _, entry, handed = unfolded
        given["defaults"] = {name: given.pop(name) for name in PRESETS if name in given}

        def made() -> Backend:
            provider = cls(**options) if cls else None
            if cls and handed and given["type"] == "openai" and getattr(provider, "model", "") is None:
                provider = cls(**options, model=handed)
            lacks = missing
            if "fallback" in path and "no model" in (said := str(getattr(provider, "missing", ""))):
                lacks = said.replace("set the option model", f'write "{entry["type"]}/MODEL"')
            return Backend(provider, missing=lacks, **given)

        return self._made(made, lambda cause: Backend(None, missing=cause, **given), path)

    def _store(self, unfolded: _Unfolded, ids: dict[str, str], priority: float) -> list[StoreBackend]:
        """Return what an entry of STORES describes; nothing after telling what is wrong."""
        read = self._plugin(_STORES, unfolded, ids)
        if read is None:
            return []
        given, cls, options, missing = read
        given = {"priority": priority, **given}
        made = self._made(
            lambda: StoreBackend(cls(**options) if cls else None, missing=missing, **given),
            lambda cause: StoreBackend(None, missing=cause, **given),
            unfolded.path,
        )
        return [made] if made is not None else []

    def _plugin(
        self, kind: _Kind, unfolded: _Unfolded, ids: dict[str, str]
    ) -> tuple[dict[str, Any], Any, dict[str, Any], str] | None:
        """Return what an entry says: of all its kind, its plugin's class with its options, and what is missing.

        Where a variable is not set, or a plugin unfit or not there, that is missing, and costs no other entry. None
        after telling what is wrong.
        """
        path, named, entry, _ = unfolded
        before, cls, missing = len(self.problems), None, ""
        given = self._identified(kind.common, entry, path, ids)
        if "type" in given:
            given["type"] = type_named(given["type"]) if kind is _BACKENDS else given["type"]
            if given.get("enabled", True):
                cls, missing = self._class(kind, given["type"], f"{path}.type", entry["type"])
        options = self.options(fields_of(cls), entry, path, frozenset(kind.common)) if cls else {}
        new = self.problems[before:]
        self.problems[before:] = [p._replace(path=named) if p.path == f"{path}.type" else p for p in new]
        if not given.keys() >= _NEEDED.keys() or not all(problem.variables for problem in new):
            return None
        if new:
            unset = dict.fromkeys(name for problem in new for name in problem.variables)
            missing = f"set {' and '.join(unset)} in the environment; {path} needs it"
            del self.problems[before:]
        return given, None if missing else cls, options, missing

    def _made(self, make: Callable[[], T], unfit: Callable[[str], T], path: str) -> T | None:
        """Return what `make` makes; None after telling what its class refuses; what `unfit` makes if it breaks."""
        try:
            return make()
        except (ConfigError, TypeError, ValueError) as error:
            self.refused(error, path)
            return None
        except (Exception, SystemExit) as error:
            return unfit(f"it cannot be built: {cause(error)}")

    def _class(self, kind: _Kind, type_: str, path: str, written: Any) -> tuple[Any, str]:
        """Return the plugin's class, or why there is none; tell of a type that nobody knows."""
        names = [info.name for info in self.catalogue.infos() if info.group == kind.group]
        if type_ in names:
            try:
                return self.catalogue.load(kind.group, type_), ""
            except ConfigError as error:
                return None, str(error)
        if type_ not in kind.published:
            others = {*ALIASES, "llm_router"} if kind is _BACKENDS else set[str]()
            known = map(repr, {*names, *kind.published, *others})
            what = "provider" if kind is _BACKENDS else "store"
            advice = f"which is no installed {what}; {nearest(repr(written), known, 0.75)}"
            self.tell(path, f"found {found(written)}, {advice}")
        distribution = kind.published.get(type_, f"pointsman-{type_}")
        return None, f"its plugin is not installed: pip install {distribution}"


def type_named(written: str) -> str:
    """Return the type that is meant: an alias, or in another case."""
    name = written.strip().lower()
    name = ALIASES.get(name, name)
    return name if name in PUBLISHED else written


def _entries(sections: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each entry of a section with its path; one that is no mapping is told already."""
    for place, entry in enumerate(sections.get(name) or ()):
        if entry is not None:
            yield f"{name}[{place}]", entry


class _Unfolded(NamedTuple):
    """One backend of the configuration."""

    path: str
    named: str  #: where its type stands
    entry: Mapping[str, Any]
    handed: str | None = None  #: the model of its chain, where it has the name that OpenAI gave it


def _unfolded(sections: Mapping[str, Any], catalogue: Catalogue) -> Iterator[_Unfolded]:
    """Yield each backend.

    An entry of type `llm_router` is its provider, followed by its fallback providers. Those share what every backend
    has, apart from the model, which is their own; or are those of another entry, where they are named by its id. An
    entry that names no provider is every installed one that finds what it needs.
    """
    entries = dict(_entries(sections, "BACKENDS"))
    by_id = {str(entry.get("id")): entry for entry in entries.values() if entry.get("type") != "llm_router"}
    for path, entry in entries.items():
        if entry.get("type") != "llm_router":
            yield _Unfolded(path, f"{path}.type", entry)
            continue
        own = {name: value for name, value in entry.items() if name not in ("type", "fallback_providers")}
        fallbacks = entry.get("fallback_providers") or []
        fallbacks = list(fallbacks) if isinstance(fallbacks, list | tuple) else [fallbacks]
        if "provider" not in own and own.keys() <= COMMON - {"model"}:  # all else belongs to one of them
            found = sorted(installed(catalogue), key=attrgetter("priority"))
            able = [one for one in found if not one._declared("missing", "")] or found
            names = [one.type for one in able if one.type not in fallbacks] + fallbacks
            if names:
                own["provider"], *fallbacks = names
        first = {"type" if name == "provider" else name: value for name, value in own.items()}
        yield _Unfolded(path, f"{path}.provider", first)
        shared = {name: value for name, value in own.items() if name in COMMON - {"model", "prices"}}
        handed = own.get("model") if type_named(str(own.get("provider"))) in ("codex", "copilot") else None
        for place, name in enumerate(fallbacks):
            here = f"{path}.fallback_providers[{place}]"
            yield _Unfolded(here, here, _fallback(name, by_id, own, shared), handed)


def _fallback(
    name: Any, by_id: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any], shared: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the options of a fallback provider: a type, "type/model", or the id of another entry."""
    there = {"id": f"{own.get('id')}/{name}"}
    if isinstance(name, str) and name in by_id:
        theirs = {option: value for option, value in by_id[name].items() if option != "priority"}
        return theirs | there | ({"priority": own["priority"]} if "priority" in own else {})
    provider, _, model = name.partition("/") if isinstance(name, str) else (name, "", "")
    return {**shared, **there, "type": provider} | ({"model": model} if model else {})
