"""Define a Verilog problem, and generate its testbench from its ports, its reference and its stimulus.

The testbench contains the reference under another name, as a golden model. It drives both modules from its own xorshift
generator, so the checks are the same under every simulator. It compares all outputs at once with `===`: one check is
one moment, so right outputs cannot make up for a wrong one beside them. Combinational problems are compared after each
change of the inputs. Clocked ones are compared twice per cycle: before the rising edge (a Mealy output, an asynchronous
reset) and after it.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

RESETS = ("reset", "areset", "rst_n", "arst_n")  # `a`: asynchronous, `_n`: active low
EXHAUSTIVE_BITS = 9  # combinational problems with at most this many input bits get every input once
STEPS = 150  # random steps for the others


@dataclass(frozen=True)
class Problem:
    name: str  # the name of the task and of its module
    category: str
    ports: str  # as in the module header, separated by commas; the clock is called clk, the reset one of RESETS
    terse: str  # one line
    normal: str  # two to four lines
    detailed: str  # the full specification
    body: str  # reference, without endmodule
    mutants: str  # wrong versions of the reference, one per line: `old => new`, replaced everywhere
    drive: dict[str, str] = field(default_factory=dict)  # input: expression instead of a random value
    setup: str = ""  # statements that run before anything is compared (to fill a memory)
    first: str = ""  # statements that run before the random steps: assignments to inputs, and `step;`
    steps: int = 0  # random steps; 0: every input once if that is feasible, else STEPS
    latches: bool = False  # whether the task asks for latches


@dataclass(frozen=True)
class Port:
    direction: str
    width: int
    name: str


def parse_ports(text: str) -> list[Port]:
    """Return the ports of a header in order. Raise ValueError for text that is not a list of ports.

    >>> parse_ports("input [7:0] a, output reg y")
    [Port(direction='input', width=8, name='a'), Port(direction='output', width=1, name='y')]
    """
    found = [re.fullmatch(r"(input|output)(?: reg)?(?: \[(\d+):0\])? (\w+)", one.strip()) for one in text.split(",")]
    if None in found:
        raise ValueError(f"ports {text!r}: not `input|output [reg] [N:0] name`, separated by commas")
    return [Port(match[1], int(match[2] or 0) + 1, match[3]) for match in found]


def header(problem: Problem, name: str = "") -> str:
    ports = ",\n".join("    " + port.strip() for port in problem.ports.split(","))
    return f"module {name or problem.name} (\n{ports}\n);\n"


def solution(problem: Problem) -> str:
    """Return the reference body and `endmodule`."""
    return problem.body.strip("\n").rstrip() + "\nendmodule\n"


def mutants(problem: Problem) -> list[str]:
    """Return the wrong versions of `solution`. Raise ValueError for a mutant that changes nothing."""
    bodies = []
    for line in inspect.cleandoc(problem.mutants).splitlines():
        old, arrow, new = line.partition(" =>")
        body = solution(problem).replace(old, new.strip())
        if not arrow or body == solution(problem):
            raise ValueError(f"{problem.name}: mutant {line!r} changes nothing")
        bodies.append(body)
    return bodies


def testbench(problem: Problem) -> str:
    ports = parse_ports(problem.ports)
    inputs = [port for port in ports if port.direction == "input"]
    outputs = [port for port in ports if port.direction == "output"]
    clocked = any(port.name == "clk" for port in inputs)
    driven = [port for port in inputs if port.name != "clk"]
    reset = next((port.name for port in inputs if port.name in RESETS), "")

    def vector(port: Port) -> str:
        return f"[{port.width - 1}:0] " if port.width > 1 else ""

    def connect(prefix: str) -> str:
        return ", ".join(f".{port.name}({prefix if port in outputs else ''}{port.name})" for port in ports)

    lines = [header(problem, "golden_model") + solution(problem), "module tb;"]
    lines += [f"    reg {vector(port)}{port.name};" for port in inputs]
    lines += [f"    wire {vector(port)}dut_{port.name}, ref_{port.name};" for port in outputs]
    lines += [f"    {problem.name} dut ({connect('dut_')});", f"    golden_model golden ({connect('ref_')});"]
    lines += [
        "    integer passed = 0, total = 0, cycle = 0;",
        "    reg quiet = 1;",
        "    reg [31:0] state = 32'd2463534242;",
        "    function [31:0] bits(input integer count); // xorshift32",
        "        begin",
        "            state = state ^ (state << 13);",
        "            state = state ^ (state >> 17);",
        "            state = state ^ (state << 5);",
        "            bits = state >> (32 - count);",
        "        end",
        "    endfunction",
        "    function [31:0] word(input integer count); // a quarter of them: zero, ones, smallest or largest signed",
        "        case (bits(4))",
        "            0: word = 0;",
        "            1: word = 32'hffffffff >> (32 - count);",
        "            2: word = 1 << (count - 1);",
        "            3: word = 32'hffffffff >> (33 - count);",
        "            default: word = bits(count);",
        "        endcase",
        "    endfunction",
        "    task compare;",
        "        if (!quiet) begin",
        "            total = total + 1;",
        f"            if ({{{', '.join('dut_' + port.name for port in outputs)}}} ===",
        f"                {{{', '.join('ref_' + port.name for port in outputs)}}}) passed = passed + 1;",
        "        end",
        "    endtask",
        "    task step;",
        "        begin",
        "            #4 compare;",
        *(["            #1 clk = 1;", "            #4 compare;", "            #1 clk = 0;"] if clocked else []),
        "            #1 cycle = cycle + 1;",
        "        end",
        "    endtask",
    ]
    lines += ["    task draw;", "        begin"]
    for port in driven:
        value = problem.drive.get(port.name) or (f"word({port.width})" if port.width > 3 else f"bits({port.width})")
        if port.name == reset and port.name not in problem.drive:
            value = f"bits(4) {'!=' if reset.endswith('_n') else '=='} 0"
        lines.append(f"            {port.name} = {value};")
    lines += ["        end", "    endtask", "    task idle;", "        begin"]
    lines += [f"            {port.name} = {int(port.name == reset and reset.endswith('_n'))};" for port in driven]
    lines += ["        end", "    endtask", "    initial begin"]

    lines += ["        clk = 0;"] if clocked else []
    lines += ["        idle;", "        step;"]
    if reset:
        lines += [f"        {reset} = {int(not reset.endswith('_n'))};", "        step;", "        quiet = 0;"]
        lines += ["        step;", "        idle;", "        step;"]
    if problem.setup:
        lines += indent(problem.setup) + ["        idle;", "        step;"]
    lines += ["        quiet = 0;", *indent(problem.first)]
    count = sum(port.width for port in driven)
    if count <= EXHAUSTIVE_BITS and not (clocked or problem.latches or problem.drive or problem.steps):
        every = f"{{{', '.join(port.name for port in driven)}}}"
        lines += ["        cycle = 0;", f"        repeat ({2**count}) begin {every} = cycle; step; end"]
    else:
        lines.append(f"        repeat ({problem.steps or STEPS}) begin draw; step; end")
    lines += ['        $display("passed %0d of %0d", passed, total);', "        $finish;", "    end", "endmodule"]
    return "\n".join(lines) + "\n"


def indent(statements: str) -> list[str]:
    return ["        " + line for line in inspect.cleandoc(statements).splitlines()]
