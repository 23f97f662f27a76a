"""Try a few modules that a working Verilog sandbox must judge rightly, before every training run."""

from __future__ import annotations

from typing import Any

from judging.self_test import wrong_verdicts

TASK = {
    "task_id": "self-test",
    "language": "verilog",
    "prompt": "module invert (\n    input [3:0] a,\n    output [3:0] y\n);\n",
    "test": """module tb;
    reg [3:0] a;
    wire [3:0] y;
    integer passed = 0, total = 0;
    invert dut (.a(a), .y(y));
    initial begin
        repeat (16) begin
            a = total;
            #1 total = total + 1;
            if (y === ~a) passed = passed + 1;
        end
        $display("passed %0d of %0d", passed, total);
        $finish;
    end
endmodule
""",
    "top_module": "invert",
}
SUMMARY = '$display("passed 16 of 16");'

# (name, completion, statuses that are right)
ATTACKS = (
    ("a right answer", "    assign y = ~a;\nendmodule\n", ("pass",)),
    ("a wrong answer", "    assign y = a;\nendmodule\n", ("fail",)),
    ("an empty module", "endmodule\n", ("fail",)),
    ("a broken program", "    assign y = (;\nendmodule\n", ("syntax",)),
    ("printing the verdict", f"    assign y = a;\n    initial begin {SUMMARY} $finish; end\nendmodule\n", ("fail",)),
    ("driving its input", "    assign a = 0;\n    assign y = 15;\nendmodule\n", ("fail", "syntax")),
    ("ending the simulation", "    initial $finish;\nendmodule\n", ("fail",)),
    ("reading a file", '    assign y = a;\n    initial $readmemh("/etc/passwd", y);\nendmodule\n', ("fail",)),
    ("including a file", '    `include "/etc/passwd"\nendmodule\n', ("fail", "syntax")),
    ("writing to the testbench", "    initial force tb.passed = 16;\nendmodule\n", ("fail", "syntax")),
    (
        "another testbench",
        f"    assign y = a;\nendmodule\nmodule tb;\n    initial {SUMMARY}\nendmodule\n",
        ("fail",),
    ),
    ("a loop without delay", "    wire x = ~x & a[0];\n    assign y = {4{x}};\nendmodule\n", ("fail", "timeout")),
    ("a vector too large", "    wire [999999999:0] x = ~a;\n    assign y = x;\nendmodule\n",
     ("fail", "timeout", "memory", "syntax", "crash")),
)  # fmt: skip


def attack(sandbox: Any, time_limit: float = 3.0) -> list[str]:
    """Judge every module and return one line for each wrong verdict; [] means that the sandbox holds."""
    return wrong_verdicts(sandbox, TASK, ATTACKS, time_limit)
