#!/bin/sh
# Run the tests. `sh run_tests.sh --slow` adds the long ones; other arguments go to pytest.
# There is one worker per core, at most four. A worker has only one thread, because with more the workers would wait for
# each other. A worker that has nothing left takes tests from another.
cd "$(dirname "$0")"
PROFILE=pocket REQUIREMENTS="requirements.txt requirements-tests.txt"
. ./profile.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -q -n auto --maxprocesses 4 --dist worksteal "$@"
