"""What every stage needs and no method is about: arguments, errors, seeds, atomic files, the run log."""

from __future__ import annotations


class InputError(Exception):
    """Something the person at the shell can mend. `main` prints it as one line and exits with code 2."""
