# Makes a virtual environment with uv, from a machine that has python3 and pip. Sourced by the scripts beside it.
# environment FOLDER GROUP...   installs the workspace, and these dependency groups, into FOLDER.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONUTF8=1

environment() {
    local folder=$1 groups=()
    shift
    for group in "$@"; do groups+=(--group "$group"); done
    if [ -z "${UV_PYTHON:-}" ] && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "python3 is $(python3 --version), and Pointsman needs 3.11 or later: put one first in PATH, or name one:" \
            "UV_PYTHON=/path/to/python3.12" >&2
        exit 2
    fi
    export UV_PYTHON=${UV_PYTHON:-$(command -v python3)}
    [ -d "$folder" ] || echo "Setting up $folder, once; this takes up to a minute on a slow line." >&2
    if ! command -v uv >/dev/null && [ ! -x .tools/uv/bin/uv ]; then
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools/uv "uv>=0.9"
    fi
    export PATH="$PWD/.tools/uv/bin:$PATH"
    UV_PROJECT_ENVIRONMENT=$folder uv sync --quiet --compile-bytecode "${groups[@]}"
    export PATH="$PWD/$folder/bin:$PATH"
}
