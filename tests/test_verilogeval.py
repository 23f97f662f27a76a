"""VerilogEval v2's folder layout, with two problems of our own in it."""

import shutil

import pytest
from prepare_verilogeval import make_task

from judging.tasks import read_tasks
from judging.verilog.pool import VerilogSandbox

MISSING = [tool for tool in ("iverilog", "vvp", "yosys", "verilator") if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

# as there: the summary in a final block, a waveform, a stimulus in a module of its own, a struct of counts
TEST = """`timescale 1 ps/1 ps
module stimulus(input clk, output reg [3:0] in);
    initial begin
        in <= 0;
        repeat (60) @(posedge clk) in <= $random;
        #1 $finish;
    end
endmodule
module tb();
    typedef struct packed { int errors; int clocks; } counts_t;
    counts_t counts;
    reg clk = 0;
    wire [3:0] in;
    wire good, dut;
    initial forever #5 clk = ~clk;
    initial begin
        $dumpfile("wave.vcd");
        $dumpvars(1, tb.clk, in ,good,dut );
    end
    stimulus stim (.clk, .*);
    RefModule one (PORTS, .out(good));
    TopModule two (PORTS, .out(dut));
    always @(posedge clk, negedge clk) begin
        counts.clocks++;
        if (good !== (good ^ dut ^ good)) counts.errors++;
    end
    final begin
        $display("Hint: %1d of %1d", counts.errors, counts.clocks);
        $display("Mismatches: %1d in %1d samples", counts.errors, counts.clocks);
    end
    initial begin
        #100000
        $display("TIMEOUT");
        $finish();
    end
endmodule
"""
PROBLEMS = {
    "Prob001_parity": ("\nGive the parity of in.\n\n - input  in (4 bits)\n - output out\n",
                       "\nmodule RefModule (\n  input [3:0] in,\n  output out\n);\n\n  assign out = ^in;\n"
                       "\nendmodule\n",
                       TEST.replace("PORTS", ".in")),
    "Prob002_any": ("Store whether any bit of in is set.\n",
                    "module RefModule (input clk, input [3:0] in, output logic out);\n  logic next;\n"
                    "  always_comb begin\n"
                    "    case (in == 0)\n      1: next = 0;\n      0: next = 1;\n    endcase\n  end\n"
                    "  always @(posedge clk) out <= next;\nendmodule\n",
                    TEST.replace("PORTS", ".clk, .in")),
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "dataset_spec-to-rtl"
    folder.mkdir()
    for name, texts in PROBLEMS.items():
        for part, text in zip(("prompt.txt", "ref.sv", "test.sv"), texts, strict=True):
            (folder / f"{name}_{part}").write_text(text)
    return folder


def prepare(run_cli, source, *flags):
    output = source.parent / "verilogeval.jsonl"
    return (
        *run_cli("data/prepare_verilogeval.py", "--source", str(source), "--output_path", str(output), *flags),
        output,
    )


@needs_tools
def test_references_pass_as_completions_and_empty_modules_fail(source, run_cli):
    code, out, err, path = prepare(run_cli, source, "--allow_missing")
    assert code == 0 and "2 tasks" in out, err
    tasks = read_tasks(path)
    assert tasks[0]["prompt"] == ("// Give the parity of in.\n//\n//  - input  in (4 bits)\n//  - output out\n"
                                  "module TopModule (\n  input [3:0] in,\n  output out\n);\n")  # fmt: skip
    assert [task["task_id"] for task in tasks] == [f"VerilogEval/{name}" for name in PROBLEMS]
    wrong = tasks[0]["canonical_solution"].replace("^in", "&in")
    whole = PROBLEMS["Prob001_parity"][1].replace("RefModule", "TopModule")
    with VerilogSandbox() as box:
        for task in tasks:
            verdict = box.check(task, task["canonical_solution"])
            assert verdict.passed and verdict.tests_total > 100, verdict
            assert not box.check(task, "endmodule\n").passed
        assert box.check(tasks[0], whole).passed
        verdict = box.check(tasks[0], wrong)
        assert not verdict.passed and 0 < verdict.parts["functional"] < 1
        # yosys takes the case without a default for a latch: that is the synthesis' fault, not the function's
        assert box.check(tasks[1], tasks[1]["canonical_solution"]).parts["synthesis"] == 0


DRIVING = {  # the stimulus stands on a net here, so that a module could overwrite it, and the reference would see that
    "assigns to its input": "  assign in = 4'd0;\n  assign out = 1'b0;\nendmodule\n",
    "assigns to a bit of it": "  assign {in[3:1], out} = 4'd0;\n  assign in[0] = 1'b0;\nendmodule\n",
    "turns its input round": "module TopModule(output [3:0] in, output out);\n  assign in = 4'd0;\n"
                             "  assign out = 1'b0;\nendmodule\n",
    "opens its input": "module TopModule(inout [3:0] in, output out);\n  assign in = 4'd0;\n  assign out = 1'b0;\n"
                       "endmodule\n",
    "has a port more": "module TopModule(input [3:0] in, output out, output good);\n  assign out = 1'b0;\n"
                       "  assign good = 1'b0;\nendmodule\n",
    "assigns in a submodule": "  assign out = 1'b0;\n  pull p(in);\nendmodule\nmodule pull(inout [3:0] x);\n"
                              "  assign x = 4'd0;\nendmodule\n",
}  # fmt: skip


@needs_tools
@pytest.mark.parametrize("completion", DRIVING.values(), ids=DRIVING)
def test_a_module_cannot_drive_the_stimulus(source, completion):
    task = make_task(source, "Prob001_parity")
    with VerilogSandbox(num_workers=1) as box:
        verdict = box.check(task, completion)
    assert verdict.status in ("fail", "syntax") and verdict.parts["functional"] == 0, verdict


@needs_tools
def test_a_prompt_without_a_header_is_refused(source):
    task = make_task(source, "Prob001_parity") | {"prompt": "Give the parity of in."}
    with VerilogSandbox(num_workers=1) as box:
        verdict = box.check(task, PROBLEMS["Prob001_parity"][1].replace("RefModule", "TopModule"))
    assert verdict.status == "refused" and "header of TopModule" in verdict.reason


def test_a_folder_that_is_none_is_named(source, run_cli, tmp_path):
    assert "has 2 problems, not 156; --allow_missing" in prepare(run_cli, source)[2]
    (source / "Prob001_parity_ref.sv").write_text("module Other (); endmodule\n")
    assert "does not begin with module RefModule" in prepare(run_cli, source, "--allow_missing")[2]
    (source / "Prob001_parity_ref.sv").unlink()
    code, _, err, path = prepare(run_cli, source, "--allow_missing")
    assert code == 2 and "Prob001_parity_ref.sv: cannot be read" in err and not path.exists()
    assert "no such folder" in prepare(run_cli, tmp_path / "none")[2]
    assert "has no ProbNNN_name_prompt.txt" in prepare(run_cli, tmp_path)[2]
