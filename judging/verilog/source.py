r"""Check token by token what a candidate and a netlist contain, and put a secret into the testbench.

The candidate's source is never compiled together with the testbench. Only the netlist that yosys writes is, and only
after it was rewritten from a short list of tokens: no system task, no string, no directive, no delay, no dot (so no
hierarchical name and no port connection), no instance, and no name that it does not declare.
"""

from __future__ import annotations

import re

from judging.verilog_tokens import Refused, tokens_of

# system functions that are constants or wiring; all others print, stop, read, write or wait
FUNCTIONS = frozenset(
    "signed unsigned clog2 bits size high low left right increment dimensions unpacked_dimensions countones onehot "
    "onehot0 isunknown rtoi itor floor ceil pow sqrt ln log10".split()
)
DIRECTIVES = frozenset("default_nettype timescale resetall celldefine endcelldefine line".split())  # left by ivlpp
MAX_SOURCE = 256 * 1024  # characters, also after macros are expanded

_NETLIST_WORDS = frozenset(
    "module endmodule input output inout wire reg signed integer assign always initial posedge negedge or begin end if "
    "else case casez endcase default function endfunction".split()
)
_DECLARING = frozenset("input output inout wire reg integer function".split())
_NETLIST_SIGNS = frozenset("()[]{}:;,?=<>!&|^~+-*/%@")


def check_length(text: str) -> None:
    """Raise Refused if the source has more than `MAX_SOURCE` characters."""
    if len(text) > MAX_SOURCE:
        raise Refused(f"the source has {len(text)} characters, more than {MAX_SOURCE}")


def check_source(text: str, preprocessed: bool) -> str:
    r"""Check a candidate's source. If it is preprocessed, return it without comments and directives, else unchanged.

    Of the directives only default_nettype remains. Comments are removed because tools obey some of them (`verilator
    lint_off`, `synthesis translate_off`).

    Raises:
        Refused: the source is too long, or has a system task, an include, a forbidden directive, a foreign function, a
            name such as `\$and `, a character outside ASCII, or a comment that does not end.

    >>> check_source("assign y = $signed(a); // $finish", True)
    'assign y = $signed(a); '
    >>> check_source("initial $finish;", True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    judging.verilog_tokens.Refused: line 1: $finish is not synthesisable; ...
    """
    check_length(text)
    kept, line, words = [], 1, []
    for kind, token in tokens_of(text):
        at = f"line {line}: "
        line += token.count("\n")
        if kind == "comment" and token.startswith("/*") and not (token.endswith("*/") and len(token) > 3):
            raise Refused(f"{at}a comment does not end")
        if kind == "comment":
            token = "\n" * token.count("\n") or ("" if token.startswith("//") else " ")
        elif kind == "system" and preprocessed and token[1:] not in FUNCTIONS:
            raise Refused(f"{at}{token} is not synthesisable; of the system functions only constant ones may be used")
        elif kind == "escaped" and token.startswith("\\$"):
            raise Refused(f"{at}the name {token[:40]} is the tools' own")
        elif kind == "directive":
            if token == "`include" or (preprocessed and token[1:] not in DIRECTIVES):
                raise Refused(f"{at}{token} may not be used")
        elif kind == "string" and words[-1:] in (["import"], ["export"]):
            raise Refused(f"{at}foreign functions may not be used")
        elif kind == "other" and not " " <= token <= "~":
            raise Refused(f"{at}the character {token!r} is no part of Verilog")
        if kind not in ("space", "comment"):
            words = [token]
        kept.append(token)
    clean = "".join(kept)
    return re.sub(r"(?m)^[ \t]*`.*$", _directive_line, clean) if preprocessed else text


def _directive_line(match: re.Match[str]) -> str:
    return match.group() if "`default_nettype" in match.group() else ""


def check_netlist(text: str, top_module: str) -> str:
    r"""Return the netlist rewritten from its tokens, with plain names in place of escaped ones.

    Raises:
        Refused: it is not exactly one module, named `top_module`, made of wires, registers and expressions.

    >>> check_netlist("/* yosys */ module top(\\a.b ); input \\a.b ; wire \\a.b ; endmodule", "top")
    '  module top(escaped_0_ ); input escaped_0_ ; wire escaped_0_ ; endmodule'
    """
    written = [("space", " ") if kind == "comment" else (kind, token) for kind, token in tokens_of(text)]
    tokens = [(kind, token) for kind, token in written if kind != "space"]
    if [token for _, token in tokens[:2]] != ["module", top_module] or [token for _, token in tokens].count(
        "module"
    ) > 1:
        raise Refused(f"the netlist is not the one module {top_module}")
    taken = {token for kind, token in tokens if kind == "name"}
    prefix = "escaped_"
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    plain: dict[str, str] = {}
    renamed = []
    for kind, token in written:
        if kind == "escaped":
            token = plain.setdefault(token, f"{prefix}{len(plain)}_")
            kind = "name"
        elif (kind == "system" and token not in ("$signed", "$unsigned")) or kind in ("string", "directive"):
            raise Refused(f"the netlist has {token[:60]}")
        elif kind == "other" and token not in _NETLIST_SIGNS:
            raise Refused(f"the netlist has the character {token!r}")
        elif kind == "number" and "." in token:
            raise Refused(f"the netlist has the number {token}")
        renamed.append((kind, token))
    names = [(kind, token) for kind, token in renamed if kind != "space"]
    declared = _declared(names)
    before = ("", "")
    for kind, token in names[2:]:
        own = kind == "name" and token not in _NETLIST_WORDS
        if own and token not in declared:
            raise Refused(f"the netlist uses {token[:60]}, which it does not declare")
        if own and before[0] == "name" and before[1] not in _NETLIST_WORDS:
            raise Refused(f"the netlist has an instance of {before[1][:60]}")
        before = (kind, token)
    written_anew = "".join(token for _, token in renamed)
    # with #0 a latch reads its inputs after they have settled, not at each step before
    return re.sub(r"always @\*", "always @* #0", written_anew)


def _declared(tokens: list[tuple[str, str]]) -> set[str]:
    """Return the names that follow `wire`, `reg [7:0]`, `input signed [3:0]` and so on."""
    declared, waiting, depth = set(), False, 0
    for kind, token in tokens:
        depth += (token == "[") - (token == "]")
        if kind == "name" and token in _DECLARING:
            waiting = True
        elif waiting and depth == 0 and kind == "name" and token != "signed":
            declared.add(token)
            waiting = False
    return declared


_SUMMARIES = {  # the last line that a testbench prints; format literal: whether its first number counts failures
    "passed %0d of %0d": False,
    "Mismatches: %1d in %1d samples": True,  # VerilogEval
}


_READING = frozenset("$readmemh $readmemb $fscanf $fgets $fgetc $fread $sdf_annotate".split())


def check_testbench(test: str) -> None:
    """Raise Refused if a testbench reads a file: no tool may read one, so its checks would compare with nothing.

    >>> check_testbench('initial $readmemh("vectors.hex", m);')
    Traceback (most recent call last):
        ...
    judging.verilog_tokens.Refused: the testbench reads a file ($readmemh), and none can be read here
    """
    for kind, token in tokens_of(test):
        if kind == "system" and token in _READING:
            raise Refused(f"the testbench reads a file ({token}), and none can be read here")


def without_waveforms(test: str) -> str:
    """Remove the calls that write a waveform from a testbench: no tool may write files here, and vvp would stop there.

    >>> without_waveforms('initial begin $dumpfile("a;b.vcd"); $dumpvars(1, tb); go; end // $dumpvars')
    'initial begin ; ; go; end // $dumpvars'
    """
    kept, dumping = [], False
    for kind, token in tokens_of(test):
        dumping = dumping and token != ";"
        dumping = dumping or (kind == "system" and token.startswith("$dump"))
        kept += [] if dumping else [token]
    return "".join(kept)


def latches_allowed(source: str) -> str:
    r"""Replace `always_comb` in the source by `always @*`, from which yosys may make a latch.

    With `always_comb` yosys stops at a latch, and there would be no netlist to simulate. This way, a latch lowers only
    `synthesis`.

    >>> latches_allowed("always_comb \\always_comb = y;")
    'always @* \\always_comb = y;'
    """
    return "".join("always @*" if pair == ("name", "always_comb") else pair[1] for pair in tokens_of(source))


def seal(test: str, secret: str) -> tuple[str, bool]:
    r"""Put the secret into a testbench's summary line; return it, and whether the first number counts failures.

    Raises:
        Refused: the testbench does not have exactly one summary line.

    >>> seal('$display("passed %0d of %0d", p, n);', "S3")
    ('$display("S3 passed %0d of %0d", p, n);', False)
    """
    found = [(literal, inverted) for literal, inverted in _SUMMARIES.items() if literal in test]
    if len(found) != 1 or test.count(found[0][0]) != 1 or not re.search(rf'"{re.escape(found[0][0])}(?:\\n)?"', test):
        raise Refused('the testbench does not print exactly one "passed %0d of %0d"')
    literal, inverted = found[0]
    return test.replace(literal, f"{secret} {literal}"), inverted


def read_summary(output: str, secret: str, inverted: bool) -> tuple[int, int] | None:
    """Read (checks passed, checks made) from the simulation's output; None unless it has exactly one valid summary.

    >>> read_summary("passed 9 of 9\\nS3 passed 1 of 4\\n", "S3", False)
    (1, 4)
    """
    pattern = r"Mismatches:\s+(\d+) in\s+(\d+) samples" if inverted else r"passed (\d+) of (\d+)"
    lines = [line.strip() for line in output.splitlines() if secret in line]
    match = re.fullmatch(f"{secret} {pattern}", lines[0]) if len(lines) == 1 else None
    if match is None:
        return None
    first, total = (int(number) for number in match.groups())
    passed = total - first if inverted else first
    return (passed, total) if 0 <= passed <= total and total > 0 else None
