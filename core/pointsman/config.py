"""Settings from a JSON or TOML file, or from a dict: checked, with every problem told at once.

`load` checks what every backend has, and keeps the options of the plugins as they were written.
`build` turns those into an instance once the plugin's class is there: only what a configuration
names is ever imported. No value here shows a key, nor lets it be pickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from attrs import Attribute, asdict, field, fields, frozen

from ._discovery import PROVIDERS, Catalogue
from ._files import read, repeated
from ._structure import build as build
from ._structure import expected, found, structured, unknown
from ._variables import Written, expand, misspelt
from .errors import ConfigError
from .secret import Secret, redact
from .values import _RANGES

Source: TypeAlias = "str | Path | Mapping[str, Any]"
_Entry: TypeAlias = tuple[str, Mapping[str, Any]]
T = TypeVar("T")

#: Other names of types, as the complaint generator writes them.
ALIASES = {
    "workstation": "local",
    "huggingface": "hf",
    "anthropic": "claude",
    "copilot_cli": "copilot",
    "codex_cli": "codex",
}
_PUBLISHED = ("openai", "openrouter", "hf", "claude", "gemini", "codex", "copilot", "local")
_SECTIONS = ("BACKENDS", "MEDIATOR", "ROUTER", "STORES")
_DEFAULTS = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty")
_PLACE = re.compile(r"(\w*)(?:\[(\d+)\])?")
_PRICES = ("input", "output", "cached")


def _number(low: float, high: float = inf, *, above: bool = False, default: float | None = None) -> Any:
    """Return a field for a number from `low` (or only `above` it) to `high`."""

    def check(_: Any, __: Attribute[Any], value: Any) -> None:
        if value is not None and not (low < value <= high if above else low <= value <= high):
            limits = f"above {low:g}" if above else f"from {low:g}" + (f" to {high:g}" if high < inf else " upwards")
            raise ValueError(f"found {value:g}, expected {expected(type(value))} {limits}")

    return field(default=default, validator=check)


def _as_in_request(name: str) -> Any:
    return _number(*_RANGES[name])


def _filled(_: Any, __: Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError('found "", expected text that is not empty')


def _priced(_: Any, __: Attribute[Any], value: Mapping[str, float] | None) -> None:
    if value is not None and not (value.keys() <= {*_PRICES} and all(price >= 0 for price in value.values())):
        raise ValueError(f"found {dict(value)!r}, expected US dollars for a million tokens: {', '.join(_PRICES)}")


@frozen(kw_only=True)
class _Named:
    id: str = field(validator=_filled)
    type: str = field(validator=_filled)  #: the plugin's own name, never an alias


@frozen(kw_only=True)
class _Common(_Named):
    """What every backend may have. `None`: not written."""

    priority: float = 100.0  #: lower is asked first
    weight: float = _number(0, default=1.0)
    model: str | None = None
    timeout: float | None = _number(0, above=True)  #: seconds, of one attempt
    max_retries: int | None = _as_in_request("max_retries")
    rate_limit: int | None = _number(1)  #: requests in a window
    rate_limit_window: float | None = _number(0, above=True)  #: seconds
    tokens_per_minute: int | None = _number(1)
    max_concurrency: int | None = _number(1)
    prices: Mapping[str, float] | None = field(default=None, validator=_priced)  #: US dollars for a million tokens
    enabled: bool = True
    verbose: bool = False
    max_tokens: int | None = _as_in_request("max_tokens")
    temperature: float | None = _as_in_request("temperature")
    top_p: float | None = _as_in_request("top_p")
    frequency_penalty: float | None = _as_in_request("frequency_penalty")
    presence_penalty: float | None = _as_in_request("presence_penalty")


#: The names that every backend may have; all others must be fields of the provider's class.
COMMON = frozenset(a.name for a in fields(_Common))


@frozen(kw_only=True)
class BackendSettings(_Common):
    """One entry of BACKENDS."""

    path: str  #: where it stands: "BACKENDS[0]"
    options: Written  #: all that was written, for `build`
    missing: tuple[str, ...] = ()  #: variables that are not set: it is `unconfigured` and cannot be built

    @property
    def reason(self) -> str:
        """What a person can do about `missing`; "" where nothing is."""
        return f"set {' and '.join(self.missing)} in the environment; {self.path} needs it" if self.missing else ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The request fields that this backend presets."""
        return {name: getattr(self, name) for name in _DEFAULTS if getattr(self, name) is not None}


@frozen(kw_only=True)
class StoreSettings(_Named):
    """One entry of STORES; its fields mean what those of `BackendSettings` do."""

    path: str
    options: Written
    missing: tuple[str, ...] = ()


@frozen(kw_only=True)
class RouterSettings:
    """The section ROUTER. `None`: not written, so the router's own default holds."""

    order: str | None = None  #: a plugin's name
    timeout: float | None = _number(0, above=True)  #: seconds, in all
    first_token_timeout: float | None = _number(0, above=True)  #: seconds
    idle_timeout: float | None = _number(0, above=True)  #: seconds
    min_rate: float | None = _number(0)  #: characters a second
    max_retries: int | None = _as_in_request("max_retries")  #: further attempts at one backend
    on_refusal: Literal["raise", "next"] | None = None
    on_break: Literal["raise", "restart", "continue"] | None = None
    on_limit: Literal["wait", "next"] | None = None
    rate_limit_storage: Secret | None = None  #: a URL, which may hold a password
    health_ttl: float | None = _number(0)  #: seconds
    middleware: tuple[str, ...] | None = None  #: plugins' names, the outermost first
    verbose: bool | None = None
    log_content: bool | None = None

    def given(self) -> dict[str, Any]:
        """Return what was written, by name."""
        return _given(self)


@frozen
class _Mediator:
    backends: tuple[str, ...] | None = None
    timeout: float | None = _number(0, above=True)
    max_retries: int | None = _as_in_request("max_retries")


@frozen
class Settings:
    """A whole configuration, checked."""

    backends: tuple[BackendSettings, ...] = ()
    router: RouterSettings = RouterSettings()
    mediator: Mapping[str, Any] = field(factory=dict)
    stores: tuple[StoreSettings, ...] = ()


def sealed(source: Source) -> Source:
    """Return `source` in a form whose repr shows no key: for the frames that a traceback may show."""
    return Written(source) if isinstance(source, Mapping) else source


def load(source: Source, *, catalogue: Catalogue | None = None) -> Settings:
    """Return the settings that `source` holds: the path of a JSON or TOML file, or a mapping of the same form.

    :param catalogue: the installed plugins, where the caller has them already.
    :raises ConfigError: with one line for each problem, each with its path.
    """
    source = sealed(source)
    settings, problems = _load(source, catalogue or Catalogue())
    if settings is None:
        raise ConfigError(*problems) from None
    return settings


def _load(source: Source, catalogue: Catalogue) -> tuple[Settings | None, list[str]]:
    raw, folder, problem = read(source)
    if problem:
        return None, [redact(problem)]
    problems = [unknown(name, _SECTIONS) for name in raw if name not in _SECTIONS]
    problems += [*repeated(raw, ""), *misspelt(raw, "")]
    entries = list(_unfolded(_entries(raw, "BACKENDS", problems)))
    backends = _settled(BackendSettings, _Common, entries, folder, problems)
    stores = _settled(StoreSettings, _Named, _entries(raw, "STORES", problems), folder, problems)
    router, wrong = structured(RouterSettings, _section(raw, "ROUTER", problems), "ROUTER")
    mediator, also_wrong = structured(_Mediator, _section(raw, "MEDIATOR", problems), "MEDIATOR")
    problems += [*wrong, *also_wrong, *_not_installed(entries, backends, catalogue)]
    ids = [backend.id for backend in backends]
    for number, name in enumerate((mediator and mediator.backends) or ()):
        if name not in ids:
            place = f"MEDIATOR.backends[{number}]"
            problems.append(f"{place}: found {found(name)}, expected the id of a backend; {_nearest(name, ids)}")
    if problems:
        problems += _wrong_options(entries, catalogue)  # so that all is told at once
        return None, sorted(dict.fromkeys(map(redact, problems)), key=_position)
    return Settings(tuple(backends), router, _given(mediator), tuple(stores)), []


def _given(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings, recurse=False).items() if value is not None}


def _section(raw: Mapping[str, Any], name: str, problems: list[str]) -> Mapping[str, Any]:
    value = raw.get(name, {})
    if isinstance(value, Mapping):
        return value
    problems.append(f"{name}: found {found(value)}, expected a mapping")
    return {}


def _entries(raw: Mapping[str, Any], name: str, problems: list[str]) -> Iterator[_Entry]:
    """Yield each entry of a list with its path."""
    value = raw.get(name, [])
    if not isinstance(value, list | tuple):
        problems.append(f"{name}: found {found(value)}, expected a list of mappings")
        return
    for number, entry in enumerate(value):
        path = f"{name}[{number}]"
        if isinstance(entry, Mapping):
            yield path, entry
        else:
            problems.append(f"{path}: found {found(entry)}, expected a mapping with id and type")


def _unfolded(entries: Iterator[_Entry]) -> Iterator[_Entry]:
    """Yield each entry; one of type `llm_router` as its provider, followed by its fallback providers.

    A fallback shares what every backend has, apart from the model, which is its own.
    """
    for path, entry in entries:
        if entry.get("type") != "llm_router":
            yield path, entry
            continue
        first = {name: value for name, value in entry.items() if name not in ("provider", "fallback_providers")}
        yield path, first | ({"type": entry["provider"]} if "provider" in entry else {})
        shared = {name: value for name, value in first.items() if name in COMMON - {"model", "prices"}}
        fallbacks = entry.get("fallback_providers", [])
        for number, name in enumerate(fallbacks if isinstance(fallbacks, list | tuple) else [fallbacks]):
            provider, _, model = name.partition("/") if isinstance(name, str) else (name, "", "")
            own = {"id": f"{entry.get('id')}/{name}", "type": provider} | ({"model": model} if model else {})
            yield f"{path}.fallback_providers[{number}]", shared | own


def _settled(
    kind: Callable[..., T], base: type[_Named], entries: Iterable[_Entry], folder: Path | None, problems: list[str]
) -> list[T]:
    """Return the entries as values of `kind`, whose options are the fields of `base`."""
    done: list[T] = []
    places: dict[str, str] = {}
    for path, entry in entries:
        missing: list[str] = []
        common, wrong = structured(base, entry, path, also=entry, unset=missing)
        problems += wrong
        if common is None:
            if not wrong:
                problems.append(f"{path}: id and type need {' and '.join(missing)}, which is not set")
            continue
        if places.setdefault(common.id, path) != path:
            problems.append(f"{path}.id: found {found(common.id)}, which {places[common.id]} has; give each its own")
        known = asdict(common, recurse=False) | {"type": ALIASES.get(common.type, common.type)}
        done.append(kind(**known, path=path, options=Written(entry, folder), missing=tuple(missing)))
    return done


def _not_installed(
    entries: Iterable[_Entry], backends: Iterable[BackendSettings], catalogue: Catalogue
) -> Iterator[str]:
    """Yield a problem for each type that no installed plugin has, unless the entry is not enabled."""
    installed = sorted(info.name for info in catalogue.infos() if info.group == PROVIDERS)
    disabled = {backend.path for backend in backends if not backend.enabled}
    for path, entry in entries:
        type_ = _type(entry)
        if path in disabled or type_ in (*installed, ""):
            continue
        if type_ in _PUBLISHED:
            advice = f"which is not installed: pip install pointsman-{type_}"
        else:
            advice = f"which is no installed provider; {_nearest(type_, installed)}"
        yield f"{path}.type: found {found(entry['type'])}, {advice}"


def _wrong_options(entries: Iterable[_Entry], catalogue: Catalogue) -> Iterator[str]:
    """Yield what the classes of the plugins have to say; a plugin that is unfit is reported elsewhere."""
    for path, entry in entries:
        try:
            cls = catalogue.load(PROVIDERS, _type(entry))
        except ConfigError:
            continue
        yield from structured(cls, entry, path, also=COMMON, unset=[])[1]


def _type(entry: Mapping[str, Any]) -> str:
    type_ = expand(entry.get("type"), [])
    return ALIASES.get(type_, str(type_)) if isinstance(type_, str) else ""


def _nearest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"


def _position(problem: str) -> tuple[str, int]:
    """Sort by section and entry; within an entry, as found."""
    place = _PLACE.match(problem)
    return (place[1], int(place[2] or 0)) if place else ("", 0)
