"""Share the code that every package uses: arguments, errors, files, text, machine, processes."""

from common.arguments import (
    InputError,
    Preempted,
    answer_for,
    as_flags,
    check_importance_args,
    check_judge_args,
    check_sampling_args,
    check_selection_args,
    field_names,
    parse_args,
    read_yaml,
    require,
    require_at_least,
    run_script,
    settings_of,
    unknown_name,
)
from common.files import read_jsonl, replace_folder, sha256, write_jsonl, write_text
from common.machine import command, commit, machine, peak_memory
from common.text import duration, one_line, printable

__all__ = [
    "InputError",
    "Preempted",
    "answer_for",
    "as_flags",
    "check_judge_args",
    "check_importance_args",
    "check_sampling_args",
    "check_selection_args",
    "command",
    "commit",
    "duration",
    "field_names",
    "machine",
    "one_line",
    "parse_args",
    "peak_memory",
    "printable",
    "read_jsonl",
    "read_yaml",
    "replace_folder",
    "require",
    "require_at_least",
    "run_script",
    "settings_of",
    "sha256",
    "unknown_name",
    "write_jsonl",
    "write_text",
]
