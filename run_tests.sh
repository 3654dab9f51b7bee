#!/usr/bin/env bash
# Run the tests and the linter; arguments go to pytest.
#
#     bash run_tests.sh                # all but the tests marked slow or gpu
#     bash run_tests.sh -m slow        # only those marked slow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/env.sh eval dev

export HF_HUB_OFFLINE=1 # no test may depend on the network
status=0
"$PYTHON" -m pytest -q "$@" || status=$?
"$PYTHON" -m ruff check --output-format concise . || status=1
"$PYTHON" -m ruff format --check --output-format concise . || {
    echo "to format them: $PYTHON -m ruff format ." >&2
    status=1
}
exit "$status"
