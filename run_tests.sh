#!/bin/sh
# The tests. `sh run_tests.sh --slow` adds the long ones; other arguments go to pytest.
cd "$(dirname "$0")"
PROFILE=pocket
. ./profile.sh
exec python -m pytest -q "$@"
