"""Settings from a JSON or TOML file, or from a dict: checked, with every problem told at once.

`load` checks what every backend has, and what the plugins' classes say of their own options, which
it keeps as they were written; `build` turns those into an instance. Only a plugin that an enabled
backend names is imported. No value here shows a key, nor lets it be pickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attrs import NOTHING, Attribute, asdict, field, fields, frozen

from ._backends import DEFAULTS
from ._discovery import MIDDLEWARE, ORDERS, PROVIDERS, Catalogue
from ._files import read
from ._structure import Walk, found, nearest
from ._variables import Misfit, Written
from .errors import ConfigError
from .secret import Secret, redact
from .values import _RANGES

Source: TypeAlias = "str | Path | Mapping[str, Any]"
#: path, place that names the type, and what is written
_Entry: TypeAlias = tuple[str, str, Mapping[str, Any]]

#: Other names of types, as the complaint generator writes them.
ALIASES = {"workstation": "local", "huggingface": "hf", "anthropic": "claude"}
ALIASES |= {"copilot_cli": "copilot", "codex_cli": "codex"}
#: Providers that we publish: a backend of one that is not installed costs no other.
PUBLISHED = ("openai", "openrouter", "hf", "claude", "gemini", "codex", "copilot", "local")
_DOLLARS = "in US dollars for a million tokens: input, output, cached"


def _only(fits: Callable[[Any], object], words: str, default: Any = None) -> Any:
    """Return a field for None and for values that fit; `words` tell which those of its type are."""

    def check(_: Any, __: Attribute[Any], value: Any) -> None:
        if value is not None and not fits(value):
            raise Misfit(words)

    return field(default=default, validator=check)


def _number(low: float, high: float = inf, default: float | None = None) -> Any:
    words = f"from {low:g}" + (f" to {high:.10g}" if high < inf else " upwards")
    return _only(lambda value: low <= value <= high, words, default)


def _seconds() -> Any:
    return _only(lambda value: value > 0, "above 0")


@frozen(kw_only=True)
class _Common:
    """What every backend may have. `None`: not written."""

    id: str = _only(str.strip, "that is not empty", NOTHING)
    type: str  #: the plugin's own name, never an alias
    priority: float = 100.0  #: lower is asked first
    weight: float = _number(0, default=1.0)
    model: str | None = None
    timeout: float | None = _seconds()  #: seconds, of one attempt
    max_retries: int | None = _number(*_RANGES["max_retries"])
    rate_limit: int | None = _number(1)  #: requests in a window
    rate_limit_window: float | None = _seconds()  #: seconds
    tokens_per_minute: int | None = _number(1)
    max_concurrency: int | None = _number(1)
    prices: Mapping[str, float] | None = _only({"input", "output", "cached"}.issuperset, _DOLLARS)
    enabled: bool = True
    verbose: bool = False
    max_tokens: int | None = _number(*_RANGES["max_tokens"])
    temperature: float | None = _number(*_RANGES["temperature"])
    top_p: float | None = _number(*_RANGES["top_p"])
    frequency_penalty: float | None = _number(*_RANGES["frequency_penalty"])
    presence_penalty: float | None = _number(*_RANGES["presence_penalty"])


#: The names that every backend may have; all others must be fields of the provider's class.
COMMON = frozenset(a.name for a in fields(_Common))


@frozen(kw_only=True)
class BackendSettings(_Common):
    """One entry of BACKENDS, or of STORES."""

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
        return {name: getattr(self, name) for name in DEFAULTS if getattr(self, name) is not None}


@frozen(kw_only=True)
class RouterSettings:
    """The section ROUTER. `None`: not written, so the router's own default holds."""

    order: str | None = None  #: a plugin's name
    timeout: float | None = _seconds()  #: seconds, in all
    first_token_timeout: float | None = _seconds()  #: seconds
    idle_timeout: float | None = _seconds()  #: seconds
    min_rate: float | None = _number(0)  #: characters a second
    max_retries: int | None = _number(*_RANGES["max_retries"])  #: further attempts at one backend
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
    timeout: float | None = _seconds()
    max_retries: int | None = _number(*_RANGES["max_retries"])


@frozen
class _Sections:
    """What a configuration may have; entries are looked at one by one."""

    BACKENDS: tuple[Written, ...] = ()
    MEDIATOR: _Mediator = _Mediator()
    ROUTER: RouterSettings = RouterSettings()
    STORES: tuple[Written, ...] = ()


@frozen
class Settings:
    """A whole configuration, checked."""

    backends: tuple[BackendSettings, ...] = ()
    router: RouterSettings = RouterSettings()
    mediator: Mapping[str, Any] = field(factory=dict)
    stores: tuple[BackendSettings, ...] = ()


def sealed(source: Source) -> Source:
    """Return `source` in a form whose repr shows no key: for the frames that a traceback may show.

    :raises ConfigError: it is neither a path nor a mapping.
    """
    if isinstance(source, Mapping):
        return Written(source)
    if not isinstance(source, str | Path):
        raise ConfigError(f"configuration: found {type(source).__name__}, expected the path of a file or a mapping")
    return source


def load(source: Source, *, catalogue: Catalogue | None = None) -> Settings:
    """Return the settings that `source` holds: the path of a JSON or TOML file, or a mapping of the same form.

    :param catalogue: the installed plugins, where the caller has them already.
    :raises ConfigError: with one line for each problem, each with its path.
    """
    source = sealed(source)
    settings, problems = _load(source, catalogue or Catalogue())
    if problems:
        del settings  # a traceback that shows local variables would show what stands at the wrong option
        raise ConfigError(*problems)
    return settings


def build(cls: type[Any], options: Mapping[str, Any], path: str) -> Any:
    """Return `cls` built from `options`, which stand at `path` of the configuration.

    Names that every backend has (`COMMON`) are passed over unless `cls` has such a field.

    :raises ConfigError: with one line for each misfit: unknown, missing, of the wrong type, refused
        by the class, or a variable that is not set.
    """
    walk = Walk(getattr(options, "folder", None))
    instance = walk.filled(cls, options, path, COMMON)
    problems = walk.told()
    del options, walk  # a traceback that shows local variables would show what they hold
    if problems:
        raise ConfigError(*problems)
    return instance


def _load(source: Source, catalogue: Catalogue) -> tuple[Settings, list[str]]:
    try:
        raw, folder = (source, None) if isinstance(source, Mapping) else read(source)
    except Misfit as misfit:
        return Settings(), [redact(f"{source}: {misfit}")]
    walk = Walk(folder)
    sections = walk.options(_Sections, raw, "")
    problems: list[str] = []
    ids: dict[str, str] = {}
    backends = _settled(_unfolded(sections, "BACKENDS"), folder, problems, ids, catalogue)
    stores = _settled(_unfolded(sections, "STORES"), folder, problems, {})
    router = raw.get("ROUTER")
    for place, group, name in _named(walk, router) if isinstance(router, Mapping) else ():
        if name not in (installed := catalogue.names(group)):
            advice = f"; {nearest(repr(name), map(repr, installed))}" if installed else ""
            walk.tell(place, f"found {found(name)}, which is no installed plugin of its kind{advice}")
    mediator = _given(sections.get("MEDIATOR") or _Mediator())
    for number, name in enumerate(mediator.get("backends", ())):
        if name not in ids:
            advice = f"expected the id of a backend; {nearest(repr(name), map(repr, ids))}"
            walk.tell(f"MEDIATOR.backends[{number}]", f"found {found(name)}, {advice}")
    problems += walk.told()
    return Settings(backends, sections.get("ROUTER") or RouterSettings(), mediator, stores), problems


def _named(walk: Walk, router: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the plugins that ROUTER names: the path, the group, the name. What is no text is told already."""
    written = router.get("middleware")
    pairs = [
        (f"middleware[{n}]", MIDDLEWARE, one) for n, one in enumerate(written if isinstance(written, list) else ())
    ]
    for name, group, one in [("order", ORDERS, router.get("order")), *pairs]:
        if isinstance(one, str) and (text := walk.fitted(one, str, f"ROUTER.{name}")):
            yield f"ROUTER.{name}", group, text


def _given(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings, recurse=False).items() if value is not None}


def _unfolded(sections: Mapping[str, Any], section: str) -> Iterator[_Entry]:
    """Yield each entry with its path; one of type `llm_router` as its provider, followed by its fallback providers.

    A fallback shares what every backend has, apart from the model, which is its own.
    """
    for number, entry in enumerate(sections.get(section) or ()):
        path = f"{section}[{number}]"
        if entry is None:  # no mapping, which is told already
            continue
        if entry.get("type") != "llm_router":
            yield path, f"{path}.type", entry
            continue
        own_names = ("type", "provider", "fallback_providers")
        first = {name: value for name, value in entry.items() if name not in own_names}
        yield path, f"{path}.provider", first | ({"type": entry["provider"]} if "provider" in entry else {})
        shared = {name: value for name, value in first.items() if name in COMMON - {"model", "prices"}}
        fallbacks = entry.get("fallback_providers", [])
        for place, name in enumerate(fallbacks if isinstance(fallbacks, list | tuple) else [fallbacks]):
            provider, _, model = name.partition("/") if isinstance(name, str) else (name, "", "")
            own = {"id": f"{entry.get('id')}/{name}", "type": provider} | ({"model": model} if model else {})
            yield (here := f"{path}.fallback_providers[{place}]"), here, shared | own


def _settled(
    entries: Iterable[_Entry],
    folder: Path | None,
    problems: list[str],
    ids: dict[str, str],
    catalogue: Catalogue | None = None,
) -> tuple[BackendSettings, ...]:
    """Return the entries without a problem as values, whose types `catalogue` knows if it is given.

    :param ids: gets the path of each id, also of those whose entry has a problem.
    """
    done: list[BackendSettings] = []
    for path, place, entry in entries:
        walk = Walk(folder)
        known = walk.options(_Common, entry, path, entry)
        if isinstance(id_ := known.get("id"), str) and (other := ids.setdefault(id_, path)) != path:
            walk.tell(f"{path}.id", f"found {found(id_)}, which {other} has; give each its own")
        if isinstance(type_ := known.get("type"), str):
            known["type"] = ALIASES.get(type_, type_)
            if catalogue and known.get("enabled") is not False:
                _check_options(walk, catalogue, known["type"], entry, path)
        if wrong := walk.told(unset=not known.keys() >= {"id", "type"}):
            problems += [re.sub(rf"^{re.escape(path)}\.type:", f"{place}:", line) for line in wrong]
            continue
        missing = tuple(dict.fromkeys(name for _, name in walk.unset))
        done.append(BackendSettings(**known, path=path, options=Written(entry, folder), missing=missing))
    return tuple(done)


def _check_options(walk: Walk, catalogue: Catalogue, type_: str, entry: Mapping[str, Any], path: str) -> None:
    """Tell what the plugin's class has against the options; one that is unfit is reported elsewhere."""
    installed = [info.name for info in catalogue.infos() if info.group == PROVIDERS]
    if type_ in installed:
        with suppress(ConfigError):
            walk.options(catalogue.load(PROVIDERS, type_), entry, path, COMMON)
        return
    if type_ not in PUBLISHED:
        advice = f"which is no installed provider; {nearest(repr(type_), map(repr, installed))}"
        walk.tell(f"{path}.type", f"found {found(entry['type'])}, {advice}")
