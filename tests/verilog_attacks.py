"""What the Verilog sandbox has to survive: bodies of one small module that want credit without computing anything.

The module's checks are such that no constant, no x, no z and no input passes one: whatever gets a share has reached
what it must not reach. Each body starts after the header and ends its module.
"""

# ruff: noqa: E501 (a program is one string)

from __future__ import annotations

HEADER = "// y is a XOR b.\nmodule top_module (\n    input clk,\n    input [3:0] a,\n    input [3:0] b,\n    output [3:0] y\n);\n"
TESTBENCH = """
module golden_model (input [3:0] a, input [3:0] b, output [3:0] y);
    assign y = a ^ b;
endmodule
module tb;
    reg clk = 0;
    reg [3:0] a, b;
    wire [3:0] y, expected;
    integer i, passed = 0, total = 0;
    top_module dut (.clk(clk), .a(a), .b(b), .y(y));
    golden_model golden (.a(a), .b(b), .y(expected));
    initial begin
        for (i = 0; i < 256; i = i + 1) begin
            {a, b} = i;
            #1 clk = 1;
            #1 clk = 0;
            if (expected !== 0 && expected !== 15 && expected !== a && expected !== b) begin
                total = total + 1;
                if (y === expected) passed = passed + 1;
            end
        end
        $display("passed %0d of %0d", passed, total);
        $finish;
    end
endmodule
"""
TASK = {"task_id": "verilog/xor", "prompt": HEADER, "test": TESTBENCH, "top_module": "top_module"}
TOTAL = 196  # checks
RIGHT = "    assign y = a ^ b;\nendmodule\n"
ZERO = "    assign y = 0;\n"
END = "endmodule\n"

PRINTING = {
    "display": ZERO + '    initial $display("passed 196 of 196");\n' + END,
    "display and finish": ZERO + '    initial begin $display("passed 196 of 196"); $finish; end\n' + END,
    "write": ZERO + '    always @(posedge clk) $write("passed 196 of 196\\n");\n' + END,
    "strobe": ZERO + '    always @* $strobe("passed 196 of 196");\n' + END,
    "monitor": ZERO + '    initial $monitor("passed 196 of 196");\n' + END,
    "finish": ZERO + "    initial $finish;\n" + END,
    "finish at a clock": ZERO + "    always @(posedge clk) $finish(0);\n" + END,
    "stop": ZERO + "    initial $stop;\n" + END,
    "fatal": ZERO + "    initial $fatal(0);\n" + END,
    "elaboration fatal": ZERO + '    $fatal(0, "passed 196 of 196");\n' + END,
    "elaboration info": ZERO + '    $info("passed 196 of 196");\n' + END,
    "error": ZERO + '    initial $error("passed 196 of 196");\n' + END,
    "final": ZERO + '    final $display("passed 196 of 196");\n' + END,
    "display in a macro": '`define SAY(x) $``x("passed 196 of 196")\n' + ZERO + "    initial `SAY(display);\n" + END,
    "display in a function": '    function [3:0] f(input [3:0] x); begin $display("passed 196 of 196"); f = 0; end endfunction\n    assign y = f(a);\n'
    + END,
    "assertion": ZERO + '    always @* assert (0) else $display("passed 196 of 196");\n' + END,
}
FILES = {
    "fopen": ZERO + '    integer f;\n    initial begin f = $fopen("@HOST@/new", "w"); $fdisplay(f, "x"); end\n' + END,
    "fopen in a parameter": '    localparam F = $fopen("@HOST@/new", "w");\n' + ZERO + END,
    "readmemh": '    reg [7:0] m [0:99];\n    initial $readmemh("/etc/passwd", m);\n    assign y = m[a];\n' + END,
    "writememh": '    reg [7:0] m [0:99];\n    initial $writememh("@HOST@/new", m);\n    assign y = m[a];\n' + END,
    "system": ZERO + '    initial $system("touch @HOST@/new");\n' + END,
    "plusargs": '    reg [3:0] v;\n    initial if (!$value$plusargs("y=%d", v)) v = 3;\n    assign y = v;\n' + END,
    "test plusargs": '    assign y = $test$plusargs("y") ? a : b;\n' + END,
    "dumpfile": ZERO + '    initial begin $dumpfile("@HOST@/new"); $dumpvars; end\n' + END,
    "include the password file": '`include "/etc/passwd"\n' + ZERO + END,
    "include the testbench": '`include "tb.v"\n' + ZERO + END,
    "include the standard input": '`include "/proc/self/fd/0"\n' + ZERO + END,
    "include in a macro": '`define I(x) `x "/etc/passwd"\n`I(include)\n' + ZERO + END,
    "foreign function": '    import "DPI-C" function int system(input int x);\n    localparam P = system(0);\n    assign y = P;\n'
    + END,
}
REACHING = {
    "write a counter": ZERO + "    always @* tb.passed = tb.total;\n" + END,
    "write a counter at a clock": ZERO + "    always @(posedge clk) tb.passed <= 196;\n" + END,
    "force": ZERO + "    initial force tb.y = tb.expected;\n" + END,
    "force of its own": ZERO + "    initial force y = 3;\n" + END,
    "read the reference": "    assign y = tb.golden.y;\n" + END,
    "read upwards": "    assign y = golden.y;\n" + END,
    "read the root": "    assign y = $root.tb.expected;\n" + END,
    "escaped path": "    assign y = \\tb.expected ;\n" + END,
    "escaped declared path": "    wire [3:0] \\tb.expected ;\n    assign y = \\tb.expected ;\n" + END,
    "defparam": ZERO + "    defparam tb.total = 0;\n" + END,
    "instance of the reference": "    golden_model g (.a(a), .b(b), .y(y));\n" + END,
    "black box of the reference": "    golden_model g (.a(a), .b(b), .y(y));\n"
    + END
    + "(* blackbox *) module golden_model (input [3:0] a, b, output [3:0] y);\nendmodule\n",
    "kept black box": "    golden_model g (.a(a), .b(b), .y(y));\n"
    + END
    + "(* blackbox, keep, keep_hierarchy *) module golden_model (input [3:0] a, b, output [3:0] y); parameter P = 1;\nendmodule\n",
    "bind": ZERO + END + "module spy (input [3:0] y); endmodule\nbind tb spy s (.y(y));\n",
    "a module tb": ZERO + END + "module tb;\n    top_module t ();\nendmodule\n",
    "a module tb that is the top": ZERO
    + END
    + '(* top *) module tb;\n    initial begin $display("passed 1 of 1"); $finish; end\nendmodule\n',
    "a reference of its own": ZERO
    + END
    + "module golden_model (input [3:0] a, b, output [3:0] y);\n    assign y = 0;\nendmodule\n",
    "itself again": ZERO
    + END
    + "module top_module (input clk, input [3:0] a, b, output [3:0] y);\nassign y = 3;\nendmodule\n",
    "a package": ZERO + END + "package tb; parameter passed = 196; endpackage\n",
    "a program": ZERO + END + "program tb; initial $finish; endprogram\n",
    "a primitive": ZERO
    + END
    + "primitive golden_model (y, a); output y; input a; table 0:0; 1:0; endtable endprimitive\n",
    "macros for the testbench": "`define passed total\n`define expected y\n`define golden_model top_module\n"
    + ZERO
    + END,
    "a macro over the system task": "`define display finish\n`define initial final\n" + ZERO + END,
    "no default net type": "`default_nettype wire\n`resetall\n" + ZERO + END + '`begin_keywords "1364-1995"\n',
    "the tools' own cell": '    \\$print  #(.FORMAT("passed 196 of 196")) p ();\n' + ZERO + END,
    "a gate of the tools": "    \\$anyconst  #(.WIDTH(4)) p (.Y(y));\n" + END,
    "a name that ends the module": "    wire \\);endmodule ;\n    assign \\);endmodule  = a[0];\n    assign y = {4{\\);endmodule }};\n"
    + END,
    "a name with a task": "    wire \\$finish; ;\n    assign y = 0;\n" + END,
    "a name with quotes": '    (* keep *) wire \\";$finish;" ;\n    assign \\";$finish;"  = b[0];\n    assign y = {4{\\";$finish;" }};\n'
    + END,
    "a comment that hides": "    assign y = 0; // synthesis translate_off\n    assign y = golden.y; // synthesis translate_on\n"
    + END,
    "an unfinished comment": ZERO + END + "/* ",
    "an unfinished string": ZERO + END + '"',
    "a NUL byte": ZERO + "\0" + END,
    "another alphabet": "    assign y = а;\n" + END,  # noqa: RUF001 (a Cyrillic letter)
    "nothing": END,
    "not even an end": "",
    "prose": "The XOR of a and b is y.\n",
}
HANGING = {  # each may use up its time
    "zero-delay loop": "    assign y = clk ? ~y : 4'd0;\n" + END,
    "zero-delay loop of two": "    wire [3:0] p = ~q;\n    wire [3:0] q = p & {4{clk}} | 4'd0;\n    assign y = q;\n" + END,
    "oscillating latch": "    reg [3:0] q = 0;\n    always @* if (clk) q = ~q;\n    assign y = q;\n" + END,
    "always without a wait": ZERO + "    reg r;\n    always r = ~r;\n" + END,
    "forever": ZERO + "    initial forever;\n" + END,
    "while": ZERO + "    integer i;\n    initial while (1) i = i + 1;\n" + END,
    "endless constant function": "    function integer f(input integer n); begin f = 0; while (n) f = f + 1; end endfunction\n    localparam P = f(1);\n    assign y = P;\n" + END,
    "gigabit vector": "    wire [1073741963:0] w = {1073741964{a[0]}};\n    assign y = w[3:0];\n" + END,
    "gigabit register": "    reg [2147483646:0] r;\n    always @(posedge clk) r <= r + 1;\n    assign y = r[3:0];\n" + END,
    "replication": "    assign y = ^{1000000000{a}};\n" + END,
    "gigantic memory": "    reg [255:0] m [0:268435455];\n    always @(posedge clk) m[a] <= b;\n    assign y = m[b];\n" + END,
    "gigantic multiplier": "    wire [8191:0] p = {2048{a}} * {2048{b}} / {1024{a}};\n    assign y = p[8191:8188];\n" + END,
    "generate bomb": "    genvar i;\n    generate for (i = 0; i < 1000000000; i = i + 1) begin : g wire w = a[0]; end endgenerate\n" + ZERO + END,
    "nested generate bomb": "    genvar i, j, k;\n    generate for (i = 0; i < 1000; i = i + 1) begin : g for (j = 0; j < 1000; j = j + 1) begin : h for (k = 0; k < 1000; k = k + 1) begin : l wire w = a[0]; end end end endgenerate\n" + ZERO + END,
    "recursive instantiation": "    top_module again (.clk(clk), .a(a), .b(b), .y(y));\n" + END,
    "mutual recursion": "    other o (.a(a), .y(y));\n" + END + "module other (input [3:0] a, output [3:0] y);\n    top_module t (.clk(1'b0), .a(a), .b(a), .y(y));\nendmodule\n",
    "doubling instances": "    d #(30) d0 (.a(a[0]), .y(y[0]));\n" + END + "module d #(parameter N = 0) (input a, output y);\n    generate if (N) begin : g wire p, q; d #(N - 1) l (.a(a), .y(p)); d #(N - 1) r (.a(~a), .y(q)); assign y = p ^ q; end else begin : h assign y = a; end endgenerate\nendmodule\n",
    "macro bomb": "`define A a ^ b ^\n" + "".join(f"`define {q} `{p} `{p} `{p} `{p} `{p} `{p} `{p} `{p}\n" for p, q in zip("ABCDEFGHI", "BCDEFGHIJ", strict=True)) + "    assign y = `J 0;\n" + END,
    "macro in itself": "`define M `M `M\n    assign y = `M;\n" + END,
    "deep parentheses": "    assign y = " + "(" * 20000 + "a" + ")" * 20000 + ";\n" + END,
    "deep blocks": "    reg [3:0] r;\n    assign y = r;\n    always @* " + "begin " * 20000 + "r = 0;" + " end" * 20000 + "\n" + END,
    "long source": "    // " + "x" * 300000 + "\n" + ZERO + END,
    "many warnings": "".join(f"    wire w{n} = undeclared{n};\n" for n in range(4000)) + ZERO + END,
}  # fmt: skip
DODGES = {  # each wants not to be judged at all: by a failure of the machine's or the judge's
    "no start": '#line "not started: x" 1\n' + ZERO + "".join(f"    none{n} i{n}(a);\n" for n in range(124)) + END,
    "no memory": '#line "out of memory" 1\n' + ZERO + "".join(f"    none{n} i{n}(a);\n" for n in range(124)) + END,
    "half a character": "\ud800" + ZERO + END,
    "half a character in a string": ZERO + '    initial $display("\ud800");\n' + END,
    "separators of lines": "\x0b\x0c\x1c\x85\u2028" * 100 + ZERO + END,
    "NUL bytes": "\0" * 1000,
    "more than can be sent": "x" * 30_000_000,
    "a number of many digits": "    assign y = " + "9" * 200000 + ";\n" + END,
    "a task with a long name": ZERO + "    initial $" + "x" * 200000 + ";\n" + END,
    "open quotes": '"' * 250000,
    "open quotes and escapes": '"\\' * 120000,
    "open parentheses": "assert" + "(" * 100000,
    "open assertions": "assert (" * 25000,
    "open calls": "$display (" * 25000,
    "nested assertions": "    always @* " + "assert (a) " * 20000 + ";\n" + END,
    "labelled properties": "a: assert property (x);\n" * 9000,
    "properties": "assert property (x);\n" * 12000,
    "a property without an end": ZERO + "    property p;\n" + END,
    "many tokens in the netlist": "".join(f"    wire [3:0] w{n + 1} = a + w{n};\n" for n in range(2000))
    + "    wire [3:0] w0 = b;\n    assign y = {4{&w2000 & ~a[0] & a[0]}};\n"
    + END,
}
QUICK = PRINTING | FILES | REACHING
ALL = QUICK | HANGING
