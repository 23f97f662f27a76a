"""Commands of the project in one process on a card that is not there; they share the seconds that a start takes.

    python tests/pretended_gpu.py [--float16] [--two] tests/pretended_stages.py < COMMANDS

COMMANDS is JSON: a list of commands, each a list of words. Prints as JSON how many kernels each of them took, and the
error that it ended in, "" for none.
"""

import contextlib
import json
import runpy
import sys
import traceback

if __name__ == "__main__":
    counts = globals()["counts"]  # tests/pretended_gpu.py's
    found = []
    for words in json.load(sys.stdin):
        before, error, sys.argv = counts.kernels, "", words
        try:
            with contextlib.redirect_stdout(sys.stderr):
                runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            error = f"exit code {end.code}" if end.code else ""
        except Exception:
            error = traceback.format_exc()
        found.append((counts.kernels - before, error))
    print(json.dumps(found))
