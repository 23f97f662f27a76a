"""Verilog judged in parts: known answers, modules that cheat, and what is left of them."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from verilog_attacks import ALL, END, HANGING, HEADER, QUICK, RIGHT, TASK, TESTBENCH, TOTAL, ZERO

import verilog_probe
from common import InputError
from sandbox import probe
from verilog import PARTS, VerilogSandbox, score
from verilog_source import Refused, check_netlist, seal
from verilog_tools import find_tools

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
import sandbox_lockdown
from verilog_tools import Toolbox, find_tools
sandbox_lockdown.no_new_privileges()
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
        "module top; wire escaped_0_, \\a.b ; endmodule",
    ],
)
def test_a_netlist_is_refused_for_whatever_is_not_plain(text):
    with pytest.raises(Refused):
        check_netlist(text, "top")


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
