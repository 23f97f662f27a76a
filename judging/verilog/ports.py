"""Check a module's ports: the netlist must have those that the task declares, and may not drive an input.

A module that turns an input into an output, or assigns to an input, would overwrite the stimulus if the testbench keeps
it on a net. An additional port could connect to a name of the testbench.
"""

from __future__ import annotations

from judging.verilog_tokens import Refused, tokens_of

_DIRECTIONS = ("input", "output", "inout")
_TYPES = frozenset("wire reg logic bit byte int integer signed unsigned var tri tri0 tri1 supply0 supply1".split())


def task_ports(prompt: str, top_module: str) -> dict[str, str]:
    """Return {port name: direction} from the module header at the end of a prompt.

    Raises:
        Refused: the prompt declares no ports of that module.

    >>> task_ports("// input x\\nmodule top #(parameter W = 4) (input clk, input [W-1:0] a, b, output reg y);", "top")
    {'clk': 'input', 'a': 'input', 'b': 'input', 'y': 'output'}
    """
    tokens = [(kind, token) for kind, token in tokens_of(prompt) if kind not in ("space", "comment")]
    following = zip(tokens, tokens[1:], strict=False)
    starts = [n for n, (one, two) in enumerate(following) if (one[1], two[1]) == ("module", top_module)]
    ports: dict[str, str] = {}
    direction, depth = "", 0
    for kind, token in tokens[starts[-1] :] if starts else []:
        depth += (token == "[") - (token == "]")
        if token in _DIRECTIONS:
            direction = token
        elif token == ";":
            direction = ""
        elif direction and depth == 0 and kind in ("name", "escaped") and token not in _TYPES:
            ports.setdefault(token.removeprefix("\\"), direction)
    if not ports:
        raise Refused(f"the prompt does not end with the header of {top_module} and its ports")
    return ports


def check_ports(netlist: str, ports: dict[str, str]) -> None:
    """Raise Refused if yosys's netlist has a port that is not in `ports` with the same direction, or drives an input.

    >>> check_ports("module t(a, y); input a; output y; wire y; assign { y, a } = 2'h1; endmodule",
    ...             {"a": "input", "y": "output"})
    Traceback (most recent call last):
        ...
    judging.verilog_tokens.Refused: the module drives its input a
    """
    in_function, statement, direction, depth, driven = False, "", "", 0, set()
    for kind, token in tokens_of(netlist):
        depth += (token == "[") - (token == "]")
        if token in ("function", "endfunction"):
            in_function = token == "function"
        elif in_function or kind in ("space", "comment"):  # a function's inputs are its own
            continue
        elif token == ";":
            statement = direction = ""
        elif token in (*_DIRECTIONS, "wire", "reg", "assign"):
            statement, direction = token, token if token in _DIRECTIONS else direction
        elif token == "=":  # the names before it were assigned to
            statement = ""
        elif depth == 0 and kind in ("name", "escaped") and token not in _TYPES:
            name = token.removeprefix("\\")
            if direction and ports.get(name) != direction:
                raise Refused(f"{direction} {name[:60]} is no such port of the task's module")
            # a port is a `reg` in yosys's netlist if a block assigns to it
            if statement in ("assign", "reg") and ports.get(name) == "input":
                driven.add(name)
    if driven:
        raise Refused(f"the module drives its input {min(driven)[:60]}")
