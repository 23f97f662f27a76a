#!/bin/sh
# Run the tests. `sh run_tests.sh --slow` adds the long ones; other arguments go to pytest.
# There is one worker per core, at most four, and each takes one test file at a time. A worker has only one thread,
# because with more the workers would wait for each other.
cd "$(dirname "$0")"
PROFILE=pocket
. ./profile.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -q -n auto --maxprocesses 4 --dist loadfile "$@"
