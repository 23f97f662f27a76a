"""List Verilog problems with a clock or latches, but no control: flip-flops, edges, counters, shift registers, sums."""

from verilog_testbench import Problem

PROBLEMS = [
    Problem(
        "load_register",
        "flip-flops",
        "input clk, input reset, input load, input [7:0] d, output reg [7:0] q",
        terse="8-bit register with load enable; synchronous reset to 8'h5a.",
        normal="""8-bit register: at the rising edge of clk, q becomes 8'h5a if reset is high,
            otherwise d if load is high, and otherwise keeps its value.""",
        detailed="""Positive-edge register. reset is synchronous, active high, sets q to 8'h5a, and goes before load.
            With reset = 0 and load = 1, q takes d at the rising edge of clk; with load = 0 it holds.""",
        body="""
    always @(posedge clk) begin
        if (reset) q <= 8'h5a;
        else if (load) q <= d;
    end
""",
        mutants="""8'h5a => 8'h00
            else if (load) => else
            always @(posedge clk) => always @(posedge clk or posedge reset)
            posedge clk => negedge clk
            (load) => (!load)""",
    ),
    Problem(
        "preset_clear_flop",
        "flip-flops",
        "input clk, input arst_n, input preset, input clear, input d, output reg q",
        terse="D flip-flop, asynchronous active-low reset, synchronous preset and clear; clear wins.",
        normal="""D flip-flop with asynchronous active-low reset arst_n (q = 0).
            At the rising edge: clear makes q 0, otherwise preset makes it 1, otherwise q takes d.""",
        detailed="""arst_n = 0 forces q to 0 at once, without a clock edge. While arst_n = 1, at each rising edge of clk:
            clear = 1: q becomes 0, also if preset = 1; clear = 0 and preset = 1: q becomes 1; both 0: q becomes d.
            preset and clear have no effect between edges.""",
        body="""
    always @(posedge clk or negedge arst_n) begin
        if (!arst_n) q <= 1'b0;
        else if (clear) q <= 1'b0;
        else if (preset) q <= 1'b1;
        else q <= d;
    end
""",
        mutants="""posedge clk or negedge arst_n => posedge clk
            (!arst_n) q <= 1'b0 => (!arst_n) q <= 1'b1
            (clear) => (clear & ~preset)
            else if (preset) q <= 1'b1; =>
            (preset) q <= 1'b1 => (preset) q <= 1'b0""",
    ),
    Problem(
        "jk_flop",
        "flip-flops",
        "input clk, input areset, input j, input k, output reg q, output q_n",
        terse="JK flip-flop with asynchronous reset and both outputs.",
        normal="""JK flip-flop at the rising edge of clk: j sets, k clears, both toggle, neither holds.
            areset is asynchronous and active high and clears q. q_n is the inverse of q.""",
        detailed="""areset = 1: q = 0 at once. Otherwise at the rising edge of clk, by {j, k}: 00 holds, 01 clears q, 10 sets q,
            11 inverts q. q_n is always NOT q (combinational).""",
        body="""
    assign q_n = ~q;
    always @(posedge clk or posedge areset) begin
        if (areset) q <= 1'b0;
        else q <= (j & ~q) | (~k & q);
    end
""",
        mutants="""~k & q => k & q
            or posedge areset =>
            (j & ~q) | (~k & q) => j | (~k & q)
            q <= 1'b0 => q <= 1'b1
            ~q; => q;""",
    ),
    Problem(
        "byte_enables",
        "flip-flops",
        "input clk, input rst_n, input [1:0] enables, input [15:0] d, output reg [15:0] q",
        terse="16-bit register with a write enable for each byte; synchronous active-low reset.",
        normal="""16-bit register with two byte enables: enables[0] lets the lower byte of d in,
            enables[1] the upper one. rst_n is synchronous, active low and clears q.""",
        detailed="""At the rising edge of clk: rst_n = 0 makes q zero, whatever enables is. Otherwise q[7:0] takes d[7:0] if
            enables[0] = 1 and q[15:8] takes d[15:8] if enables[1] = 1; a byte that is not enabled holds.""",
        body="""
    always @(posedge clk) begin
        if (!rst_n) q <= 16'd0;
        else begin
            if (enables[0]) q[7:0] <= d[7:0];
            if (enables[1]) q[15:8] <= d[15:8];
        end
    end
""",
        mutants="""if (enables[1]) => else if (enables[1])
            (!rst_n) => (rst_n)
            enables[0] => |enables
            q[15:8] <= d[15:8] => q[15:8] <= d[7:0]
            posedge clk => posedge clk or negedge rst_n""",
    ),
    Problem(
        "gated_latch",
        "latches",
        "input gate_n, input hold, input show, input [3:0] d, output reg [3:0] q, output [3:0] y",
        terse="4-bit latch, transparent while gate_n and hold are low; y is q if show, else 0.",
        normal="""4-bit transparent latch: q follows d while gate_n (active low) and hold are both low, and keeps
            its value otherwise. y is q while show is high and zero while it is low.""",
        detailed="""A level-sensitive latch, no clock and no reset. gate_n = 0 and hold = 0: q = d (transparent). In the three other
            cases q keeps its last value, whatever d does. y = q if show = 1 and y = 4'd0 if show = 0; show has no effect
            on q.""",
        body="""
    assign y = show ? q : 4'd0;
    always_latch if (!gate_n && !hold) q = d;
""",
        mutants="""!gate_n && => gate_n &&
            && !hold =>
            !gate_n && !hold => !gate_n || !hold
            !gate_n && !hold => !gate_n && !hold && show
            show ? q : 4'd0 => q""",
        drive={
            "gate_n": "cycle % 3 == 0 ? bits(1) : gate_n",
            "hold": "cycle % 3 == 1 ? bits(2) == 0 : hold",
            "show": "cycle % 3 == 2 ? bits(2) != 0 : show",
            "d": "cycle % 3 == 2 ? bits(4) : d",
        },
        setup="d = 9; step;",
        latches=True,
    ),
    Problem(
        "address_latch",
        "latches",
        "input strobe_n, input side, input [3:0] bus, output reg [7:0] address",
        terse="Latch two nibbles of an address from a bus; side 1 is the upper one, strobe_n active low.",
        normal="""Address latch of a multiplexed bus: while strobe_n is low, the lower half of address
            follows bus if side is low, the upper half if side is high. The rest holds.""",
        detailed="""Two 4-bit transparent latches. strobe_n = 0 and side = 0: address[3:0] = bus. strobe_n = 0 and side = 1:
            address[7:4] = bus. Each half holds its value in all other cases. There is no clock and no reset.""",
        body="""
    always_latch if (!strobe_n && !side) address[3:0] = bus;
    always_latch if (!strobe_n && side) address[7:4] = bus;
""",
        mutants="""!strobe_n && !side => !strobe_n
            !strobe_n && => strobe_n &&
            address[7:4] = bus => address[7:4] = ~bus
            !strobe_n && side) => side)""",
        drive={
            "strobe_n": "cycle % 2 == 0 ? !strobe_n : strobe_n",
            "side": "cycle % 2 != 0 && strobe_n ? bits(1) : side",
            "bus": "cycle % 2 != 0 ? bits(4) : bus",
        },
        setup="bus = 5; strobe_n = 0; step; side = 1; step; strobe_n = 1; step;",
        latches=True,
    ),
    Problem(
        "rising_edges",
        "edge detectors",
        "input clk, input reset, input [3:0] in, output reg [3:0] rose",
        terse="Per bit: high for a cycle after the input went from 0 to 1; synchronous reset, at which inputs count as 1.",
        normal="""For each bit of in: rose is high for one clock cycle if the bit was 0 at the edge before and is 1
            at this edge. reset is synchronous, active high, and clears rose; at an edge with reset high the inputs count as
            sampled 1, so that an input which is high throughout gives no pulse.""",
        detailed="""in is sampled at each rising edge of clk. If a bit was sampled 0 at one edge and 1 at the next, that bit of rose
            is 1 from this second edge until the following edge; otherwise it is 0. rose is a register.
            reset (synchronous, active high) clears rose and sets the remembered samples to all ones.""",
        body="""
    reg [3:0] previous;
    always @(posedge clk) begin
        if (reset) begin
            previous <= 4'hf;
            rose <= 4'd0;
        end else begin
            previous <= in;
            rose <= in & ~previous;
        end
    end
""",
        mutants="""previous <= 4'hf => previous <= 4'd0
            in & ~previous => ~in & previous
            in & ~previous => in ^ previous
            in & ~previous => {3'd0, |(in & ~previous)}
            rose <= 4'd0; =>""",
        drive={"reset": "bits(3) == 0"},
    ),
    Problem(
        "falling_capture",
        "edge detectors",
        "input clk, input reset, input [7:0] in, input [7:0] clear, output reg [7:0] seen",
        terse="Per bit: remember a 1-to-0 change until clear; a new change wins over clear.",
        normal="""Each bit of seen is set when the same bit of in goes from 1 at one clock edge to 0 at the next,
            and stays set until the bit of clear is high. If both happen at one edge it is set.
            reset is synchronous and clears seen; after it in counts as having been 0.""",
        detailed="""in is sampled at every rising edge of clk with reset = 0. Bit i of seen becomes 1 at such an edge if in[i] is 0 and
            the remembered sample was 1. It becomes 0 at an edge where clear[i] = 1 and no such change is found, and holds
            otherwise. reset = 1 (synchronous): seen = 0, and the remembered sample becomes 0, whatever in is.""",
        body="""
    reg [7:0] previous;
    always @(posedge clk) begin
        if (reset) begin
            previous <= 8'd0;
            seen <= 8'd0;
        end else begin
            previous <= in;
            seen <= (seen & ~clear) | (previous & ~in);
        end
    end
""",
        mutants="""(seen & ~clear) | (previous & ~in) => (seen | (previous & ~in)) & ~clear
            previous & ~in => in & ~previous
            seen & ~clear => seen
            previous <= 8'd0 => previous <= in
            (seen & ~clear) | =>""",
        drive={"clear": "bits(8) & bits(8)", "reset": "bits(4) == 0"},
    ),
    Problem(
        "both_edges_count",
        "edge detectors",
        "input clk, input arst_n, input signal, output pulse, output reg [3:0] edges",
        terse="Pulse on each change of a signal behind two flip-flops, and a 4-bit count of the pulses; async low reset.",
        normal="""signal passes a synchroniser of two flip-flops. pulse is high during the cycle in which the
            output of the second differs from its value a cycle earlier, and edges counts these cycles
            (modulo 16), each at the edge that ends it. arst_n is an asynchronous active-low reset of all registers to 0.""",
        detailed="""Three flip-flops in a row sample signal at the rising edge of clk: first, second, third. pulse = second XOR third
            (combinational). edges is a 4-bit counter that is increased at each rising edge at which pulse is 1, and wraps
            from 15 to 0. arst_n = 0 sets the three flip-flops and edges to 0 at once.""",
        body="""
    reg [2:0] samples;
    assign pulse = samples[1] ^ samples[2];
    always @(posedge clk or negedge arst_n) begin
        if (!arst_n) begin
            samples <= 3'd0;
            edges <= 4'd0;
        end else begin
            samples <= {samples[1:0], signal};
            if (pulse) edges <= edges + 4'd1;
        end
    end
""",
        mutants="""samples[1] ^ samples[2] => samples[1] & ~samples[2]
            samples[1] ^ samples[2] => samples[0] ^ samples[1]
            if (pulse) edges => edges
            or negedge arst_n =>
            edges + 4'd1 => {1'b0, edges[2:0] + 3'd1}""",
        drive={"arst_n": "bits(6) != 0"},
    ),
    Problem(
        "counter_mod10",
        "counters",
        "input clk, input reset, input enable, output reg [3:0] count, output carry",
        terse="Decade counter with enable, synchronous reset, and carry for the next digit.",
        normal="""Decade counter: counts 0 to 9 and starts again while enable is high, holds while it is low.
            carry is high if count is 9 and enable is high. reset is synchronous and active high.""",
        detailed="""At the rising edge of clk: reset = 1 makes count 0 (before enable). Otherwise, if enable = 1, count goes up by one,
            and from 9 to 0. carry = 1 while count = 9 and enable = 1 (combinational), so that it can be the enable of the
            next digit.""",
        body="""
    assign carry = enable && count == 4'd9;
    always @(posedge clk) begin
        if (reset || carry) count <= 4'd0;
        else if (enable) count <= count + 4'd1;
    end
""",
        mutants="""4'd9 => 4'd10
            enable && count == => count ==
            else if (enable) => else
            reset || carry => carry
            reset || carry => reset""",
        drive={"enable": "bits(2) != 0", "reset": "bits(6) == 0"},
    ),
    Problem(
        "up_down_limit",
        "counters",
        "input clk, input areset, input up, input down, output reg [3:0] level, output full, output empty",
        terse="4-bit up/down counter that stops at 0 and 15; asynchronous reset.",
        normal="""Level counter: up adds one, down takes one away, both or neither hold.
            It does not wrap: it stays at 15 and at 0. full is high at 15, empty at 0.
            areset (asynchronous, active high) sets it to 0.""",
        detailed="""areset = 1 makes level 0 at once. Otherwise at the rising edge of clk: up = 1, down = 0: level + 1 unless it is 15;
            up = 0, down = 1: level - 1 unless it is 0; up = down: level holds. full = (level = 15), empty = (level = 0),
            both combinational.""",
        body="""
    assign full = &level;
    assign empty = ~|level;
    always @(posedge clk or posedge areset) begin
        if (areset) level <= 4'd0;
        else if (up && !down && !full) level <= level + 4'd1;
        else if (down && !up && !empty) level <= level - 4'd1;
    end
""",
        mutants="""&& !full =>
            && !empty =>
            up && !down => up
            or posedge areset =>
            ~|level => |level""",
        first="up = 1; repeat (18) step; down = 1; repeat (2) step; up = 0; repeat (18) step;",
        drive={"areset": "bits(6) == 0"},
    ),
    Problem(
        "down_timer",
        "counters",
        "input clk, input reset, input load, input [5:0] delay, output busy, output reg done",
        terse="Loadable down-counter: done for one cycle when it reaches zero; synchronous reset.",
        normal="""Timer: load starts it with delay cycles, busy is high while cycles are left, and done is
            high for one cycle after the last one. load with delay 0 gives done in the next cycle.
            A new load starts it again at any time. reset is synchronous and active high.""",
        detailed="""A 6-bit counter left, registered. At the rising edge of clk: reset = 1: left = 0, done = 0. Otherwise load = 1:
            left = delay, done = 1 if delay is 0, else 0. Otherwise left > 0: left goes down by one, done = 1 if it was 1,
            else 0. Otherwise done = 0. busy = (left is not 0), combinational. So load with delay n gives n cycles of busy,
            then one of done.""",
        body="""
    reg [5:0] left;
    assign busy = left != 6'd0;
    always @(posedge clk) begin
        done <= 1'b0;
        if (reset) left <= 6'd0;
        else if (load) begin
            left <= delay;
            done <= delay == 6'd0;
        end else if (busy) begin
            left <= left - 6'd1;
            done <= left == 6'd1;
        end
    end
""",
        mutants="""left == 6'd1 => left == 6'd0
            left <= delay; => left <= delay - 6'd1;
            else if (load) => else if (load && !busy)
            delay == 6'd0 => 1'b0
            if (reset) left => if (reset && done) left
            done <= 1'b0; =>""",
        drive={"load": "bits(3) == 0", "delay": "bits(2) == 0 ? bits(6) : bits(3)"},
        first="load = 1; delay = 63; step; load = 0; repeat (66) step; load = 1; delay = 0; step; load = 0; repeat (2) step;",
    ),
    Problem(
        "gray_counter",
        "counters",
        "input clk, input areset, input enable, output [3:0] gray",
        terse="4-bit Gray code counter with enable and asynchronous reset.",
        normal="""Counter in the 4-bit reflected Gray code: 0000, 0001, 0011, 0010, 0110, ... 1000, and again.
            It counts while enable is high; areset (asynchronous, active high) sets it to 0000.""",
        detailed="""The n-th state (n = 0 to 15) is n XOR (n >> 1); after the last, 4'b1000, follows 4'b0000. At the rising edge of clk
            the next state is taken if enable = 1, else the state holds. areset = 1 gives 4'b0000 at once.""",
        body="""
    reg [3:0] binary;
    assign gray = binary ^ {1'b0, binary[3:1]};
    always @(posedge clk or posedge areset) begin
        if (areset) binary <= 4'd0;
        else if (enable) binary <= binary + 4'd1;
    end
""",
        mutants="""{1'b0, binary[3:1]} => {binary[3], binary[3:1]}
            else if (enable) => else
            binary + 4'd1 => binary - 4'd1
            or posedge areset =>
            {1'b0, binary[3:1]} => 4'd0""",
    ),
    Problem(
        "johnson_counter",
        "counters",
        "input clk, input rst_n, input backwards, output reg [4:0] ring",
        terse="5-bit Johnson counter, shifting left, or right if backwards; synchronous active-low reset.",
        normal="""Johnson counter of five bits: 00000, 00001, 00011, ... 11111, 11110, 11100, ... 10000, and again.
            It steps at every clock edge, through the same states in reverse if backwards is high.
            rst_n is synchronous, active low, and gives 00000.""",
        detailed="""backwards = 0: ring shifts left and the inverse of ring[4] comes in at bit 0. backwards = 1: ring shifts right and the
            inverse of ring[0] comes in at bit 4. Ten states. At the rising edge of clk with rst_n = 0, ring is 5'b00000.""",
        body="""
    always @(posedge clk) begin
        if (!rst_n) ring <= 5'd0;
        else if (backwards) ring <= {~ring[0], ring[4:1]};
        else ring <= {ring[3:0], ~ring[4]};
    end
""",
        mutants="""~ring[4] => ring[4]
            ~ring[0] => ring[0]
            else if (backwards) => else if (!backwards)
            ~ring[4] => ~ring[3]
            5'd0 => 5'd1""",
        drive={"backwards": "bits(3) == 0 ? !backwards : backwards"},
    ),
    Problem(
        "divide_clock6",
        "clock dividers",
        "input clk, input areset, output reg slow, output tick",
        terse="Divide the clock by 6 with 50% duty; tick in the last of the six cycles; asynchronous reset.",
        normal="""Clock divider by six: slow is low for three cycles of clk and high for three, starting low after
            areset (asynchronous, active high). tick is high in the last of the six cycles.""",
        detailed="""After areset = 1 (at once: slow = 0, first of six cycles) each rising edge of clk goes one cycle on. slow is a register:
            0 in the cycles 1 to 3 and 1 in the cycles 4 to 6. tick is 1 in cycle 6 only. Then it starts again.""",
        body="""
    reg [1:0] count;
    assign tick = slow && count == 2'd2;
    always @(posedge clk or posedge areset) begin
        if (areset) begin
            count <= 2'd0;
            slow <= 1'b0;
        end else if (count == 2'd2) begin
            count <= 2'd0;
            slow <= ~slow;
        end else count <= count + 2'd1;
    end
""",
        mutants="""count == 2'd2) begin => count == 2'd3) begin
            slow && count == => count ==
            slow <= 1'b0 => slow <= 1'b1
            or posedge areset =>
            slow && count == 2'd2 => slow && count == 2'd0""",
    ),
    Problem(
        "tick_period",
        "clock dividers",
        "input clk, input reset, input [3:0] period, output tick",
        terse="A tick every period+1 cycles; a shorter period takes effect at once; synchronous reset.",
        normal="""Tick generator: tick is high in the last of every period + 1 cycles (always if period is 0). Cycles are counted from
            0, and tick is high (combinational) while the count is at or beyond period, which may change at any time.
            The count is 0 again after a cycle with tick and after an edge with reset (synchronous, active high).""",
        detailed="""A 4-bit counter starts at 0 after reset. tick = (counter >= period), combinational. At the rising edge of clk the
            counter becomes 0 if reset or tick is 1, and goes up by one otherwise. So for a constant period n tick is high
            in every (n + 1)-th cycle.""",
        body="""
    reg [3:0] count;
    assign tick = count >= period;
    always @(posedge clk) begin
        if (reset || tick) count <= 4'd0;
        else count <= count + 4'd1;
    end
""",
        mutants="""count >= period => count == period
            count >= period => count > period
            reset || tick => reset
            reset || tick => tick
            if (reset || tick) count <= 4'd0; => if (reset || tick) count <= 4'd1;""",
        drive={"period": "bits(3) == 0 ? (bits(1) ? bits(4) : bits(2)) : period", "reset": "bits(4) == 0"},
    ),
    Problem(
        "pwm",
        "clock dividers",
        "input clk, input rst_n, input [3:0] duty, output reg out, output start",
        terse="PWM, period 15: out high in the first duty cycles; start in the last one, to which rst_n (synchronous) resets.",
        normal="""Pulse width modulator with a period of 15 cycles, of which out (a register) is high in the first duty
            (0: never, 15: always). duty is taken at the edge that begins a period and is used for all of it. start is high in
            the last cycle of a period. rst_n is synchronous and active low: out is 0 and the cycle is the last of a period.""",
        detailed="""Registers: count (0 to 14) and width (4 bits). start = (count = 14). At the rising edge of clk: rst_n = 0: count = 14,
            width = 0, out = 0. Otherwise, if start: count = 0, width = duty, out = (duty > 0); else count goes up by one
            and out = (new count < width). out is a register; duty is read only at edges where start is high.""",
        body="""
    reg [3:0] count, width;
    assign start = count == 4'd14;
    always @(posedge clk) begin
        if (!rst_n) begin
            count <= 4'd14;
            width <= 4'd0;
            out <= 1'b0;
        end else if (start) begin
            count <= 4'd0;
            width <= duty;
            out <= duty != 4'd0;
        end else begin
            count <= count + 4'd1;
            out <= count + 4'd1 < width;
        end
    end
""",
        mutants="""count + 4'd1 < width => count + 4'd1 <= width
            count + 4'd1 < width => count + 4'd1 < duty
            duty != 4'd0 => 1'b1
            4'd14 => 4'd15
            out <= 1'b0; =>""",
        drive={"duty": "word(4)", "rst_n": "bits(7) != 0"},
        first="duty = 15; repeat (20) step; duty = 0; repeat (30) step;",
        steps=200,
    ),
]
