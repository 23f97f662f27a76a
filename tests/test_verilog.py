"""Verilog judged in parts: known answers, modules that cheat, and what is left of them."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from verilog_attacks import ALL, DODGES, END, HANGING, HEADER, QUICK, RIGHT, TASK, TESTBENCH, TOTAL, ZERO

from common import InputError
from judging.self_test import probe
from judging.verilog import attacks as verilog_probe
from judging.verilog.pool import PARTS, VerilogSandbox, score
from judging.verilog.ports import check_ports
from judging.verilog.source import check_netlist, seal
from judging.verilog.tools import find_tools
from judging.verilog_tokens import Refused

ROOT = Path(__file__).resolve().parents[1]
MISSING = [tool for tool in ("iverilog", "vvp", "yosys", "verilator") if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def box():
    with VerilogSandbox() as box:
        yield box


def descendants() -> set[str]:
    """The names of the programs that run below this process."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                name, fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)
            except OSError:
                continue
            parents[int(entry)] = (int(fields.split()[1]), name.partition("(")[2])
    below = {os.getpid()}
    while more := {pid for pid, (parent, _) in parents.items() if parent in below} - below:
        below |= more
    return {parents[pid][1] for pid in below if pid in parents}


def without_tools(names: set[str]) -> bool:
    return not names & {"ivl", "ivlpp", "vvp", "yosys", "verilator_bin"}


@needs_tools
def test_a_right_module_gets_every_part(box):
    verdict = box.check(TASK, RIGHT)
    assert (verdict.status, verdict.tests_passed, verdict.tests_total) == ("pass", TOTAL, TOTAL), verdict.reason
    lint = 0.05  # clk is not used
    assert verdict.parts == {"compilation": 1, "functional": 1, "synthesis": 1, "quality": pytest.approx(1 - lint)}


@needs_tools
@pytest.mark.parametrize(
    "body, share",
    [
        ("assign y = ~(a ^ b);", 0),
        ("assign y = {a[3:1] ^ b[3:1], 1'b0};", 0.5),  # the sum over half of the pairs is even
        ("assign y = {a ^ b} & {3'b111, a[0] & b[0]};", 0.5),
    ],
)
def test_a_wrong_module_gets_its_share_of_the_checks(box, body, share):
    verdict = box.check(TASK, f"    {body}\n{END}")
    assert verdict.status == "fail" and verdict.parts["functional"] == pytest.approx(share)
    assert verdict.tests_passed == share * verdict.tests_total and f"of {TOTAL} checks" in verdict.reason


@needs_tools
def test_warnings_cost_a_little(box):
    body = "    wire [1:0] w;\n    other o (.p(w), .q(w));\n" + RIGHT + "module other (input [3:0] p, q); endmodule\n"
    verdict = box.check(TASK, body)
    assert verdict.passed and verdict.parts["compilation"] == pytest.approx(1 - 2 * 0.04)


@needs_tools
@pytest.mark.parametrize(
    "body, cost",
    [
        ("    wire spare = a[0];\n" + RIGHT, 0.05),
        ("    wire [4:0] wide = a;\n    assign y = (wide[3:0] ^ b) & {4{~wide[4]}};\nendmodule\n", 0.15),
        ("    // " + "x" * 120 + "\n" + RIGHT, 0.02),
        ("    /* verilator lint_off UNUSEDSIGNAL */\n    wire spare = a[0];\n" + RIGHT, 0.05),
    ],
)
def test_quality_counts_lint_by_kind_and_long_lines(box, body, cost):
    verdict = box.check(TASK, body)
    assert verdict.passed and verdict.parts["quality"] == pytest.approx(1 - 0.05 - cost)


LATCH = """    reg [3:0] q;
    always @* if (clk) q = a ^ b;
    assign y = q;
endmodule
"""


@needs_tools
def test_a_latch_costs_synthesis_unless_the_task_asks_for_it(box):
    # clk goes up before every check, so the latch computes what is wanted
    task = TASK | {"test": TESTBENCH.replace("#1 clk = 0;", "").replace("#1 clk = 1;", "clk = 1; #1;")}
    refused, allowed = box.check(task, LATCH), box.check(task | {"latches": True}, LATCH)
    assert (refused.passed, refused.parts["synthesis"]) == (True, 0.0)
    assert (allowed.passed, allowed.parts["synthesis"]) == (True, 1.0)
    assert allowed.parts["quality"] > refused.parts["quality"]


@needs_tools
def test_a_latch_that_closes_while_its_input_changes_keeps_the_old_value(box):
    header = "module hold (input clear_n, input enable, input [3:0] d, output reg [3:0] q);\n"
    body = "always @* if (!clear_n) q = 0; else if (enable) q = d;\nendmodule\n"
    test = """module tb; reg clear_n, enable; reg [3:0] d; wire [3:0] q;
        hold dut (.clear_n(clear_n), .enable(enable), .d(d), .q(q));
        initial begin
            clear_n = 0; enable = 0; d = 5; #1 clear_n = 1;
            #1 $display("passed %0d of %0d", q === 0, 1);
            $finish;
        end endmodule"""
    task = {"task_id": "hold", "prompt": header, "test": test, "top_module": "hold", "latches": True}
    assert box.check(task, body).passed


@needs_tools
@pytest.mark.parametrize(
    "body",
    [
        "    `define W 4\n    wire [`W-1:0] t = a ^ b;\n    assign y = t;\nendmodule",
        "    reg [3:0] \\x.y ;\n    always @* \\x.y = a ^ b;\n    assign y = \\x.y ;\nendmodule",
        "    sub s (a, b, y);\nendmodule\nmodule sub (input [3:0] p, q, output [3:0] y);\n    reg [3:0] m [0:15];\n"
        "    integer i;\n    initial for (i = 0; i < 16; i = i + 1) m[i] = i;\n    genvar g;\n    wire [3:0] t;\n"
        "    generate for (g = 0; g < 4; g = g + 1) begin : each\n"
        "       wire u = p[g] ^ q[g];\n        assign t[g] = u;\n"
        "    end endgenerate\n"
        "    assign y = m[t];\nendmodule",
        "    function [3:0] f(input signed [3:0] p, q); f = $signed(p) ^ q; endfunction\n"
        "    assign y = f(a, b);\nendmodule",
        "    logic [3:0] r;\n    always_comb case (a[0])\n        1'b0: r = a ^ b;\n"
        "        default: r = b ^ a;\n    endcase\n"
        "    assign y = r; // $display is a word here, as is `include\nendmodule",
    ],
)
def test_ordinary_verilog_passes(box, body):
    verdict = box.check(TASK, body)
    assert verdict.passed and verdict.parts["synthesis"] == 1, verdict.reason


HONEST = {  # names and constructs that a simulator or a linter wants, and a netlist does not have
    "names of our own": "wire [3:0] escaped_0_ = a ^ b, \\x.y = escaped_0_, escaped__ = \\x.y ; assign y = escaped__;",
    "names of the testbench": "wire [3:0] golden_model = a ^ b, tb = golden_model, expected = tb; assign y = expected;",
    "a name with a dollar": "wire [3:0] a$b = a ^ b, \\c$d = a$b; assign y = \\c$d ;",
    "assert": "assign y = a ^ b; always @* assert (y == (a ^ b));",
    "assert, label, else": 'assign y = a ^ b; always @(posedge clk) begin l: assert (a != 1) else $error("%d", a); end',
    "assert that binds an else": "reg [3:0] q; assign y = q;\n"
    "always @* begin q = 0; if (a == b) assert (q == 0); else q = a ^ b; end",
    "assert that assigns": "reg [3:0] q; assign y = q; always @* assert (a == b) q = 0; else q = a ^ b;",
    "assert as the item of a case": "localparam ONE = 1; reg [3:0] q; assign y = q;\n"
    "always @* begin q = a ^ b; case (a[0]) ONE: assert (a[0]); default: q = b ^ a; endcase end",
    "assume and cover": "assign y = a ^ b; always @(posedge clk) begin assume (a != 5); cover (a == 4); end",
    "properties": "assign y = a ^ b; property p; @(posedge clk) a |-> ##1 b; endproperty\n"
    'l: assert property (p) else $error("x"); cover property (@(posedge clk) a);',
    "printing": 'assign y = a ^ b; always @(y) if (y == 3) $display("(%d", y); else if (y) $write("x;\\n");',
    "monitor and waveform": 'assign y = a ^ b; initial begin $monitor("%b", y); $dumpfile("x"); $dumpvars(0, y); end',
    "a parameter checked": 'parameter W = 4; assign y = a ^ b; initial if (W != 4) $fatal(1, "W is 4");',
}


@needs_tools
@pytest.mark.parametrize("body", HONEST.values(), ids=HONEST)
def test_what_only_watches_costs_no_pass(box, body):
    verdict = box.check(TASK, f"    {body}\nendmodule\n")
    assert verdict.passed and verdict.parts["synthesis"] == 1, verdict.reason


@needs_tools
def test_what_only_watches_earns_no_pass(box):
    for name, body in HONEST.items():
        verdict = box.check(TASK, "    " + body.replace("a ^ b", "a | b").replace("b ^ a", "b | a") + "\nendmodule\n")
        assert verdict.status == "fail" and verdict.tests_passed < TOTAL, (name, verdict)


GARBAGE = {  # each error of another tool or of another step; exit codes are counts of errors, modulo 256
    "parser": lambda count: "    assign y = ;\n" * count,
    "elaboration": lambda count: "".join(f"    none{n} i{n} (a);\n" for n in range(count // 2)),
    "preprocessor": lambda count: "`define M(p, q) p\n" + "`M(1)\n" * count,
    "macros": lambda count: "".join(f"`define M{n}(\n" for n in range(count)),
}


@needs_tools
@pytest.mark.parametrize("errors", GARBAGE.values(), ids=GARBAGE)
def test_no_number_of_errors_is_none(box, errors):
    for count in (1, 2, 128, 255, 256, 512):
        verdict = box.check(TASK, errors(count) + RIGHT)
        expected = ("pass", 1) if not errors(count) else ("syntax", 0)
        assert (verdict.status, verdict.parts["compilation"]) == expected, (count, verdict)


@needs_tools
@pytest.mark.parametrize("name", DODGES)
def test_no_module_gets_out_of_being_judged(box, name):
    verdict = box.check(TASK, DODGES[name])
    assert verdict.judged and not verdict.passed, verdict
    assert verdict.parts["functional"] == 0 and len(verdict.reason) <= 400, verdict


@needs_tools
def test_no_mixture_of_hostile_lines_gets_out_of_being_judged(box):
    random = Random(0)
    lines = [line for body in (QUICK | DODGES).values() if len(body) < 10000 for line in body.splitlines()]
    bodies = ["\n".join(random.choices(lines, k=random.randint(1, 12))) + f"\n{END}" for _ in range(150)]
    verdicts = [box.submit(TASK | {"canonical_solution": RIGHT}, body, 2.0) for body in bodies]
    for body, verdict in zip(bodies, verdicts, strict=True):
        assert verdict.result().judged and not verdict.result().passed, (body, verdict.result())


@needs_tools
def test_no_exit_code_gets_a_module_out_of_being_judged(box):
    """Every code that a count of errors can be, with what a failure of ours would say in its place."""
    told = ["not started: x", "infrastructure", "fork: ", "killed", "0"]
    bodies = [
        f'#line "{told[count % len(told)]}" 1\n' + f"    assign {'y' * (count % 7)} = ;\n" * count + RIGHT
        for count in range(120, 136)
    ]
    bodies += [
        f'#line "not started: x" 1\n{ZERO}' + "".join(f"    none{n} i{n} (a);\n" for n in range(count)) + END
        for count in range(61, 64)
    ]
    verdicts = box.check_many([(TASK, body) for body in bodies])
    assert {verdict.status for verdict in verdicts} == {"syntax"}


@needs_tools
def test_a_reference_that_fails_refuses_its_task_and_no_completion_does(box):
    broken = TASK | {"test": TESTBENCH.replace("y === expected", "y === ~expected"), "canonical_solution": RIGHT}
    wrong, opposite = f"{ZERO}{END}", "    assign y = ~(a ^ b);\nendmodule\n"
    for completion in (wrong, RIGHT, "prose", HANGING["macro bomb"]):
        verdict = box.check(broken, completion)
        assert verdict.status == "refused" and not verdict.judged and verdict.parts is None, verdict
        assert "own reference fails its testbench: 196 of 196 checks" in verdict.reason
    assert box.check(broken, opposite).passed
    assert box.check(broken | {"canonical_solution": " "}, wrong).status == "fail"
    assert box.check(TASK | {"canonical_solution": RIGHT}, wrong).status == "fail"


@needs_tools
def test_a_reference_has_time_of_its_own(box):
    """What the completion used up is not taken from it, or being slow would be a way out."""
    verdict = box.check(TASK | {"canonical_solution": RIGHT}, HANGING["zero-delay loop"], 1.0)
    assert verdict.status == "timeout", verdict


@needs_tools
def test_a_reference_is_judged_once_for_a_task():
    task, wrong = TASK | {"canonical_solution": RIGHT}, f"{ZERO}{END}"
    with VerilogSandbox(num_workers=1) as box:
        jobs, send = [], box._running
        box._running = lambda number: jobs.append(number) or send(number)
        assert [box.check(task, wrong).status for _ in range(3)] == ["fail"] * 3 and len(jobs) == 4


@needs_tools
@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("integer i,", "integer i i,", "the testbench does not compile: the compiler: line"),
        (".y(y)", ".nothing(y)", "the testbench does not compile: the compiler: line"),
        ("begin\n        for", '`include "golden.v"\nbegin\n        for', "not taken by the preprocessor"),
        ("begin\n        for", 'begin $readmemh("vectors.hex", m); for', "reads a file"),
    ],
)
def test_a_testbench_that_cannot_judge_is_refused_whatever_it_meets(box, old, new, reason):
    assert old in TESTBENCH
    task = TASK | {"test": TESTBENCH.replace(old, new, 1)}
    for completion in (RIGHT, f"{ZERO}{END}"):
        verdict = box.check(task, completion)
        assert verdict.status == "refused" and reason in verdict.reason, verdict
    verdict = box.check(task | {"canonical_solution": RIGHT}, f"{ZERO}{END}")
    assert verdict.status == "refused", verdict


@needs_tools
def test_an_input_that_is_assigned_to_is_named(box):
    for body in ("always @(posedge clk) a <= b;", "initial a = 3;", "assign a = b;", "always @* a[0] = b[1];"):
        verdict = box.check(TASK, f"    {body}\n{RIGHT}")
        # yosys may write `assign a = b` the other way round
        assert verdict.status == "fail" and re.fullmatch("the module drives its input [ab]", verdict.reason), body


def test_a_netlist_whose_block_assigns_to_an_input_is_refused():
    text = "module t(c, a, y); input c; wire c; input a; reg a; output y; wire y; always @(posedge c) a <= y; endmodule"
    with pytest.raises(Refused, match="drives its input a"):
        check_ports(text, {"c": "input", "a": "input", "y": "output"})


@needs_tools
def test_the_other_summary_is_read_too(box):
    test = TESTBENCH.replace('"passed %0d of %0d", passed', '"Mismatches: %1d in %1d samples", total - passed')
    verdict = box.check(TASK | {"test": test}, RIGHT)
    assert verdict.passed and verdict.tests_passed == TOTAL


@needs_tools
@pytest.mark.parametrize("test", ["module tb; initial $finish; endmodule", TESTBENCH + TESTBENCH])
def test_a_testbench_without_one_summary_judges_nothing(box, test):
    verdict = box.check(TASK | {"test": test}, RIGHT)
    assert verdict.status == "refused" and not verdict.judged and verdict.parts is None


@needs_tools
def test_a_simulation_without_a_summary_fails(box):
    early = TESTBENCH.replace("for (i", "if (y === 0) $finish; for (i")
    verdict = box.check(TASK | {"test": early.replace("{a, b} = i;", "{a, b} = i;", 1)}, ZERO + END)
    assert (verdict.status, verdict.parts["functional"]) == ("fail", 0)
    assert "summary" in verdict.reason


@needs_tools
@pytest.mark.parametrize("name", QUICK)
def test_a_module_that_cheats_gets_no_functional_credit(box, tmp_path, name):
    (tmp_path / "victim").write_text("intact")
    verdict = box.check(TASK, QUICK[name].replace("@HOST@", str(tmp_path)))
    assert verdict.judged and not verdict.passed and verdict.parts["functional"] == 0, (name, verdict)
    assert os.listdir(tmp_path) == ["victim"] and (tmp_path / "victim").read_text() == "intact"


@needs_tools
@pytest.mark.slow
def test_a_module_that_hangs_or_swells_gets_no_functional_credit_and_ends_in_time(box):
    verdicts = {name: box.submit(TASK, body, 1.5) for name, body in HANGING.items()}
    for name, future in verdicts.items():
        verdict = future.result()
        assert verdict.judged and verdict.parts["functional"] == 0, (name, verdict)
        assert verdict.wall_seconds < 3 and verdict.peak_mib < 1100, (name, verdict)
    assert without_tools(descendants()) and box.check(TASK, RIGHT).passed


@needs_tools
def test_a_simulation_that_hangs_is_a_timeout_without_credit(box):
    verdict = box.check(TASK, HANGING["zero-delay loop"], 1.0)
    assert (verdict.status, verdict.parts["functional"], verdict.parts["synthesis"]) == ("timeout", 0, 0)
    assert without_tools(descendants())


def test_the_corpus_is_as_large_as_agreed():
    assert len(ALL) >= 25 and all(body != RIGHT for body in ALL.values())


LOCKS = """
import os, sys, time
from judging import lockdown
from judging.verilog.tools import Toolbox, find_tools
lockdown.no_new_privileges()
box = Toolbox(1024, os.getpid(), find_tools())
host = sys.argv[1]
scripts = {"exec": f"exec -- touch {host}/new", "shell": f"!touch {host}/new", "tee": f"tee -o {host}/new help",
    "write": f"write_file {host}/new x", "read": f"read_verilog {host}/victim", "script": "script /etc/passwd",
    "netlist": f"design -reset; write_verilog {host}/victim", "here": "tee -o new help", "tmp": "tee -o /tmp/new help"}
for name, script in scripts.items():
    result = box.run("yosys", ["-q", "-p", script], "", until=time.monotonic() + 10)
    print(name, result.code, "root:" in result.output + result.errors)
result = box.run("yosys", ["-q", "-p", "tee -o /proc/self/fd/0 help"], "kept", until=time.monotonic() + 10)
print("input", result.code, False)
"""


@needs_tools
def test_a_tool_that_obeys_the_candidate_reads_and_writes_nothing(tmp_path):
    """The last line of defence alone: yosys is told to write, read and execute what it must not."""
    (tmp_path / "victim").write_text("module m; endmodule")
    os.chmod(tmp_path, 0o777)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOCKS, str(tmp_path)]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == 10
    for line in lines:
        name, code, leaked = line.split()
        assert code != "0" and leaked == "False", line
    assert os.listdir(tmp_path) == ["victim"] and not os.path.exists("/tmp/new") and not os.path.exists("/new")
    assert (tmp_path / "victim").read_text() == "module m; endmodule"


STARTS = """
import os, socket, sys, time
from judging import lockdown
from judging.verilog.tools import NotStarted, Toolbox, find_tools
lockdown.no_new_privileges()
opened = [os.dup(0) for _ in range(300)] + list(socket.socketpair())
for number in opened:
    os.set_inheritable(getattr(number, "fileno", lambda: number)(), True)
tools = find_tools()
box = Toolbox(1024, os.getpid(), tools | {"yosys": os.path.realpath("/bin/ls"), "vvp": os.path.realpath("/bin/false")})
print(*box.run("yosys", ["/proc/self/fd"], "", until=time.monotonic() + 10).output.split())
print(box.run("vvp", [], "", until=time.monotonic() + 10).code)
forged = box.run("yosys", ["not started: rights"], "", until=time.monotonic() + 10)
print(forged.code, forged.errors.strip())
for path in ("/nonexistent", "/bin/cat"):
    box.tools = tools | {"yosys": path}
    try:
        print("started", box.run("yosys", [], "", until=time.monotonic() + 10))
    except NotStarted as error:
        print(error)
"""


@needs_tools
def test_a_tool_gets_its_four_descriptors_and_no_word_on_whether_it_started():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", STARTS]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].split() == ["0", "1", "2", "3", "4"]  # the last is the listing's own
    assert lines[1] == "1" and lines[2].startswith("2 ") and "not started: rights" in lines[2]
    assert all(line.startswith("yosys was not started: exec: ") for line in lines[3:]) and len(lines) == 5


@needs_tools
def test_checks_hold_with_many_descriptors_open():
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
    try:
        with VerilogSandbox(num_workers=1) as box:
            assert box.check(TASK, RIGHT).passed and not box.check(TASK, f"{ZERO}{END}").passed
    finally:
        for descriptor in opened:
            os.close(descriptor)


@needs_tools
def test_concurrent_checks_do_not_mix_and_leave_nothing(box):
    before, opened = set(os.listdir(ROOT)), len(os.listdir("/proc/self/fd"))
    wrong = f"    assign y = ~(a ^ b);\n{END}"
    bodies = [RIGHT, wrong, "prose", RIGHT] * 4
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda body: box.check(TASK, body), bodies))
    assert [verdict.status for verdict in verdicts] == ["pass", "fail", "syntax", "pass"] * 4
    assert set(os.listdir(ROOT)) == before and len(os.listdir("/proc/self/fd")) == opened
    assert without_tools(descendants())


@needs_tools
def test_closing_ends_what_runs():
    box = VerilogSandbox(num_workers=1)
    future = box.submit(TASK, HANGING["zero-delay loop"], 30.0)
    while "vvp" not in descendants() and not future.done():
        pass
    box.close()
    assert without_tools(descendants())
    assert future.done() and future.exception() is not None or not future.result().passed


@needs_tools
def test_a_task_that_lacks_a_field_is_named(box):
    with pytest.raises(InputError, match="top_module"):
        box.submit({"task_id": "x", "prompt": HEADER, "test": TESTBENCH}, RIGHT)
    with pytest.raises(InputError, match="not a module's name"):
        box.submit(TASK | {"top_module": "a; shell"}, RIGHT)


@needs_tools
def test_probe_prints_tools_and_locks(capsys):
    assert probe(VerilogSandbox, verilog_probe.attack) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("Icarus Verilog", "Yosys", "Verilator", "landlock", "seccomp"))


def test_a_missing_tool_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="iverilog, yosys, verilator"):
        find_tools()


@pytest.mark.parametrize(
    "text",
    [
        "module tb; endmodule",
        "module top; endmodule module tb; endmodule",
        'module top; initial $display("passed 1 of 1"); endmodule',
        "module top; golden_model g (); endmodule",
        "module top; wire g; g _0_ (); endmodule",
        "module top; wire y; assign y = tb.x; endmodule",
        "module top; reg y; always #1 y = ~y; endmodule",
        'module top; `include "x"\nendmodule',
        "module top; initial $finish; endmodule",
        "module top; assign y = x; endmodule",
    ],
)
def test_a_netlist_is_refused_for_whatever_is_not_plain(text):
    with pytest.raises(Refused):
        check_netlist(text, "top")


def test_escaped_names_get_names_that_nobody_has():
    text = "module top(escaped_0_, \\a.b ); output escaped_0_; wire escaped_0_; output \\a.b ; wire \\a.b ; endmodule"
    written = check_netlist(text, "top").split("(")[1].split(")")[0].replace(" ", "").split(",")
    assert written[0] == "escaped_0_" and written[1] not in ("escaped_0_", "\\a.b") and "\\" not in written[1]


def test_a_secret_needs_one_summary():
    with pytest.raises(Refused):
        seal('$display("PASSED");', "S")
    with pytest.raises(Refused):
        seal('$display("passed %0d of %0d"); $display("Mismatches: %1d in %1d samples");', "S")


def test_score_is_normalised_over_the_parts_in_use():
    assert score(dict.fromkeys(PARTS, 1.0)) == score(dict.fromkeys(PARTS[:4], 1.0)) == 1.0
    assert score({**dict.fromkeys(PARTS[:4], 0.0), "reasoning": 1.0}) == pytest.approx(0.6 / 2.3)
    for weights in ((1, 1), (1, 1, 1, 1, -1), (0, 0, 0, 0, 1)):
        with pytest.raises(InputError):
            score(dict.fromkeys(PARTS[:4], 1.0), weights)
