# shellcheck shell=bash
# Sourced by the run_*.sh scripts: `source scripts/env.sh eval dev`, extras as arguments.
#
# Sets PYTHON to an interpreter that has what pyproject.toml asks for. One named by PYTHON or by an
# active environment (virtualenv or conda) is reused and only completed; without those, python3 is
# taken as it is if it has everything, else .venv is made. Nothing is installed anywhere else.

say() { printf '[env] %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Interpreters that constraints.txt was tested with come first.
base_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if recent "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    local base
    base=$(base_python) || fail "no Python 3.11 or newer found; install one, e.g. python3.11"
    say "making .venv with $("$base" -V)"
    "$base" -m venv .venv >/dev/null ||
        fail "could not make .venv; on Debian and Ubuntu: apt install python3-venv"
}

find_python() {
    local active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
    if [[ -n "${PYTHON:-}" ]]; then
        # A relative path is of where the script was started; it has changed its folder since.
        if [[ "$PYTHON" == */* && "$PYTHON" != /* && -x "${OLDPWD:-.}/$PYTHON" ]]; then
            PYTHON="${OLDPWD:-.}/$PYTHON"
        fi
        command -v "$PYTHON" >/dev/null ||
            fail "PYTHON=$PYTHON: no such interpreter; give Python 3.11 or newer, or unset it to use .venv"
        recent "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or newer; unset it to use .venv"
        return
    fi
    if [[ -n "$active" ]]; then
        PYTHON="$active/bin/python"
        [[ -x "$PYTHON" ]] || fail "the active environment $active has no bin/python"
        recent "$PYTHON" ||
            fail "$("$PYTHON" -V 2>&1) in $active is older than 3.11; deactivate it to use .venv"
        return
    fi
    if [[ ! -d .venv ]] && recent python3 &&
        python3 scripts/requirements.py "$@" >/dev/null 2>&1; then
        PYTHON=python3
        return
    fi
    if [[ ! -x .venv/bin/python ]] || ! recent .venv/bin/python; then
        make_venv
    fi
    PYTHON="$PWD/.venv/bin/python"
}

install_missing() {
    local scratch
    scratch=$(mktemp -d)
    if ! "$PYTHON" scripts/requirements.py "$@" --write "$scratch" >"$scratch/missing"; then
        [[ -s "$scratch/missing" ]] || fail "could not read the requirements of pyproject.toml"
        "$PYTHON" -m pip --version >/dev/null 2>&1 ||
            fail "$PYTHON has no pip; run: $PYTHON -m ensurepip"
        say "installing $(sed 's/[<>=~!].*//' "$scratch/missing" | paste -sd ' ') (a few minutes the first time)"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check \
            -r "$scratch/missing" -c "$scratch/constraints.txt" >&2 ||
            fail "installation failed; in an environment of your own, deactivate it to use .venv"
        say "installed"
    fi
    rm -rf "$scratch"
}

find_python "$@"
install_missing "$@"
export PYTHON
