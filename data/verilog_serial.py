"""List Verilog problems that need several clock cycles for a value: shift registers, LFSRs, sums, arithmetic."""

from verilog_testbench import Problem

PROBLEMS = [
    Problem(
        "universal_shift",
        "shift registers",
        "input clk, input arst_n, input [1:0] mode, input left_in, input right_in, input [7:0] d, output reg [7:0] q",
        terse="8-bit shift register; mode 0 hold, 1 right (left_in enters), 2 left (right_in), 3 load; async active-low reset.",
        normal="""Universal shift register. mode: 0 holds, 1 shifts right (left_in comes in at bit 7), 2 shifts left
            (right_in comes in at bit 0), 3 loads d. arst_n is asynchronous, active low and clears q.""",
        detailed="""arst_n = 0: q = 0 at once. Otherwise at the rising edge of clk: mode 2'd0: q holds; 2'd1: q = {left_in, q[7:1]};
            2'd2: q = {q[6:0], right_in}; 2'd3: q = d.""",
        body="""
    always @(posedge clk or negedge arst_n) begin
        if (!arst_n) q <= 8'd0;
        else begin
            case (mode)
                2'd1: q <= {left_in, q[7:1]};
                2'd2: q <= {q[6:0], right_in};
                2'd3: q <= d;
                default: q <= q;
            endcase
        end
    end
""",
        mutants="""{left_in, q[7:1]} => {right_in, q[7:1]}
            {q[6:0], right_in} => {q[6:0], q[7]}
            default: q <= q => default: q <= d
            or negedge arst_n =>
            2'd1: => 2'd0:""",
    ),
    Problem(
        "deserializer",
        "shift registers",
        "input clk, input reset, input bit_valid, input bit_in, output reg [7:0] byte_out, output reg byte_valid",
        terse="Collect 8 bits, first bit most significant; byte_valid for one cycle; synchronous reset.",
        normal="""Serial to parallel: each cycle with bit_valid high brings one bit, the most significant of a byte first.
            After the eighth bit byte_out has the byte and byte_valid is high for one cycle. byte_out holds until the next
            byte is complete. reset is synchronous, active high, drops the bits collected and clears both outputs.""",
        detailed="""At the rising edge of clk: reset = 1: byte_out = 0, byte_valid = 0, no bits collected. Otherwise, if bit_valid = 1,
            bit_in is the next bit. With the eighth one byte_out becomes the eight bits (the first in bit 7, the eighth in
            bit 0), byte_valid becomes 1 and collecting starts again. At all other edges byte_valid becomes 0 and byte_out
            holds: the bits collected so far are not visible.""",
        body="""
    reg [6:0] collected;
    reg [2:0] count;
    always @(posedge clk) begin
        byte_valid <= 1'b0;
        if (reset) begin
            byte_out <= 8'd0;
            collected <= 7'd0;
            count <= 3'd0;
        end else if (bit_valid) begin
            collected <= {collected[5:0], bit_in};
            count <= count + 3'd1;
            if (count == 3'd7) begin
                byte_out <= {collected, bit_in};
                byte_valid <= 1'b1;
            end
        end
    end
""",
        mutants="""count == 3'd7 => count == 3'd6
            {collected[5:0], bit_in} => {bit_in, collected[6:1]}
            else if (bit_valid) => else
            {collected, bit_in} => {1'b0, collected}
            count <= 3'd0; =>
            byte_valid <= 1'b0; => byte_valid <= byte_valid & ~bit_valid;""",
        drive={"bit_valid": "bits(2) != 0", "reset": "bits(6) == 0"},
        steps=200,
    ),
    Problem(
        "serializer",
        "shift registers",
        "input clk, input reset, input send, input [5:0] data, output bit_out, output busy",
        terse="Send 6 bits, least significant first, 1 when idle; send is ignored while busy; synchronous reset.",
        normal="""Parallel to serial: if send is high while busy is low, data is taken at the clock edge and its six bits
            appear on bit_out in the next six cycles, the least significant first, with busy high.
            bit_out is 1 when idle. reset is synchronous, active high, and ends a transfer.""",
        detailed="""At a rising edge of clk with busy = 0 and send = 1 the six bits of data are stored. In the six cycles that follow
            busy = 1 and bit_out is data[0], data[1], ... data[5]. send and data are ignored while busy = 1, so there is at
            least one idle cycle between transfers. While busy = 0 bit_out is 1. reset = 1 at an edge: busy = 0 after it.""",
        body="""
    reg [5:0] rest;
    reg [2:0] left;
    assign busy = left != 3'd0;
    assign bit_out = rest[0] | ~busy;
    always @(posedge clk) begin
        if (reset) left <= 3'd0;
        else if (busy) begin
            left <= left - 3'd1;
            rest <= {1'b1, rest[5:1]};
        end else if (send) begin
            left <= 3'd6;
            rest <= data;
        end
    end
""",
        mutants="""left <= 3'd6 => left <= 3'd5
            rest[0] | ~busy => rest[0] & busy
            {1'b1, rest[5:1]} => {rest[4:0], 1'b1}
            else if (busy) => else if (busy && !send)
            if (reset) left => if (reset && !busy) left""",
        drive={"reset": "bits(6) == 0"},
    ),
    Problem(
        "delay_line",
        "shift registers",
        "input clk, input rst_n, input enable, input [1:0] tap, input [3:0] d, output [3:0] q",
        terse="Delay of 1 to 4 enabled cycles (tap + 1) for 4-bit samples; synchronous active-low reset.",
        normal="""Delay line of four 4-bit registers: with enable high all samples move on by one at the clock edge and d comes in.
            q is the sample taken tap + 1 enabled edges ago (combinational in tap).
            rst_n is synchronous, active low, and clears all registers.""",
        detailed="""Registers r0, r1, r2, r3 of four bits. At the rising edge of clk: rst_n = 0 clears all four, whatever enable is.
            Otherwise, if enable = 1: r3 = r2, r2 = r1, r1 = r0, r0 = d, all from the values before the edge; if enable = 0
            all hold. q is r0, r1, r2 or r3 for tap = 0, 1, 2, 3.""",
        body="""
    reg [15:0] line;
    assign q = line[{tap, 2'b00} +: 4];
    always @(posedge clk) begin
        if (!rst_n) line <= 16'd0;
        else if (enable) line <= {line[11:0], d};
    end
""",
        mutants="""{line[11:0], d} => {d, line[15:4]}
            else if (enable) => else
            {line[11:0], d} => {line[11:4], d, d}
            {tap, 2'b00} => {tap & {2{tap != 2'd3}}, 2'b00}
            (!rst_n) => (!rst_n && enable)""",
        drive={"enable": "bits(2) != 0", "d": "bits(4)"},
    ),
    Problem(
        "galois_lfsr",
        "pseudo-random",
        "input clk, input reset, input enable, output reg [4:0] q",
        terse="5-bit Galois LFSR, x^5+x^3+1, shifting right; synchronous reset to 1.",
        normal="""Galois LFSR of five bits that shifts right while enable is high. The bit leaving at q[0] comes in at
            q[4] and is added (XOR) to the bit that moves from q[3] into q[2].
            reset is synchronous, active high, and gives 5'b00001. The period is 31.""",
        detailed="""At the rising edge of clk: reset = 1: q = 5'b00001. Otherwise enable = 1: q[4] = old q[0], q[3] = old q[4],
            q[2] = old q[3] XOR old q[0], q[1] = old q[2], q[0] = old q[1]. enable = 0: q holds.
            From 00001 the states are 10100, 01010, 00101, 10110, ...""",
        body="""
    always @(posedge clk) begin
        if (reset) q <= 5'd1;
        else if (enable) q <= {q[0], q[4], q[3] ^ q[0], q[2:1]};
    end
""",
        mutants="""q[3] ^ q[0] => q[3]
            5'd1 => 5'd0
            else if (enable) => else
            {q[0], q[4], q[3] ^ q[0], q[2:1]} => {q[0], q[4] ^ q[0], q[3], q[2:1]}""",
        drive={"reset": "bits(6) == 0"},
    ),
    Problem(
        "scrambler",
        "pseudo-random",
        "input clk, input arst_n, input seed_load, input [6:0] seed, input valid, input bit_in, output bit_out",
        terse="Additive scrambler, 7-bit Fibonacci LFSR x^7+x^4+1; loadable seed (zero: all ones), asynchronous reset to ones.",
        normal="""Scrambler: a 7-bit register s shifts left, with s[6] XOR s[3] coming in at s[0]; this new bit is also XORed
            to bit_in to give bit_out (combinational). It shifts in cycles with valid high. seed_load goes before valid and sets
            s to seed, or to ones if seed is zero. arst_n (asynchronous, active low) sets s to ones.""",
        detailed="""feedback = s[6] XOR s[3]; bit_out = bit_in XOR feedback at all times (combinational, also if valid = 0).
            At the rising edge of clk: seed_load = 1: s = seed, but 7'b1111111 if seed is zero, since the register would
            stay zero for ever; otherwise valid = 1: s = {s[5:0], feedback}; otherwise s holds.
            arst_n = 0: s = 7'b1111111 at once. (A zero seed is replaced by ones.)""",
        body="""
    reg [6:0] s;
    wire feedback;
    assign feedback = s[6] ^ s[3];
    assign bit_out = bit_in ^ feedback;
    always @(posedge clk or negedge arst_n) begin
        if (!arst_n) s <= 7'h7f;
        else if (seed_load) s <= seed == 7'd0 ? 7'h7f : seed;
        else if (valid) s <= {s[5:0], feedback};
    end
""",
        mutants="""s[6] ^ s[3] => s[6] ^ s[4]
            seed == 7'd0 ? 7'h7f : seed => seed
            else if (valid) => else
            {s[5:0], feedback} => {s[5:0], bit_out}
            if (seed_load) => if (seed_load && !valid)""",
        drive={"valid": "bits(2) != 0", "seed_load": "bits(4) == 0", "arst_n": "bits(6) != 0"},
        first="valid = 1; repeat (10) step; seed_load = 1; step; seed_load = 0; repeat (9) step;",
        steps=200,
    ),
    Problem(
        "crc4",
        "pseudo-random",
        "input clk, input reset, input valid, input bit_in, output reg [3:0] crc, output clean",
        terse="Serial CRC-4, polynomial x^4+x+1, start value 0, synchronous reset; clean if the CRC is zero.",
        normal="""Serial CRC with the polynomial x^4 + x + 1. In cycles with valid high crc shifts left by one; if the bit leaving
            XOR bit_in is 1, 4'b0011 is XORed to the shifted value. reset (synchronous, active high) gives 0.
            clean is high while crc is zero.""",
        detailed="""At the rising edge of clk: reset = 1: crc = 0. Otherwise valid = 1: t = crc[3] XOR bit_in;
            crc = {crc[2:0], 1'b0} XOR (t ? 4'b0011 : 4'b0000). valid = 0: crc holds.
            clean = (crc = 0), combinational: it is so after a message followed by its own CRC.""",
        body="""
    wire toggle;
    assign toggle = crc[3] ^ bit_in;
    assign clean = crc == 4'd0;
    always @(posedge clk) begin
        if (reset) crc <= 4'd0;
        else if (valid) crc <= {crc[2:0], 1'b0} ^ {2'b00, {2{toggle}}};
    end
""",
        mutants="""{2'b00, {2{toggle}}} => {1'b0, toggle, 1'b0, toggle}
            crc[3] ^ bit_in => crc[3]
            {crc[2:0], 1'b0} ^ {2'b00, {2{toggle}}} => {crc[2:0], bit_in} ^ {2'b00, {2{crc[3]}}}
            else if (valid) => else
            crc <= 4'd0 => crc <= 4'hf""",
    ),
    Problem(
        "accumulator",
        "running sums",
        "input clk, input rst_n, input clear, input add, input [7:0] value, output reg [9:0] sum, output reg overflow",
        terse="10-bit accumulator of bytes that sticks at 1023 with overflow; clear may start a new sum at once.",
        normal="""Accumulator: add adds value to sum at the clock edge. A sum above 1023 becomes 1023 and sets overflow, which
            stays set until clear or reset. clear starts from zero: together with add the new sum is value.
            rst_n is synchronous, active low, and clears both.""",
        detailed="""At the rising edge of clk: rst_n = 0: sum = 0, overflow = 0. Otherwise base = 0 if clear = 1, else sum; the flag is
            likewise 0 if clear = 1, else overflow. add = 1: base + value is stored, or 1023 if it is above 1023, in which
            case overflow becomes 1; add = 0: base is stored. overflow stays 1 until clear or reset.""",
        body="""
    wire [9:0] base;
    wire [10:0] total;
    assign base = clear ? 10'd0 : sum;
    assign total = {1'b0, base} + (add ? {3'd0, value} : 11'd0);
    always @(posedge clk) begin
        if (!rst_n) {overflow, sum} <= 11'd0;
        else begin
            sum <= total[10] ? 10'd1023 : total[9:0];
            overflow <= total[10] || (overflow && !clear);
        end
    end
""",
        mutants="""total[10] ? 10'd1023 : =>
            overflow && !clear => overflow
            || (overflow && !clear) =>
            clear ? 10'd0 : sum => clear && !add ? 10'd0 : sum
            add ? {3'd0, value} : 11'd0 => {3'd0, value}""",
        drive={"clear": "bits(4) == 0", "add": "bits(2) != 0", "rst_n": "bits(6) != 0"},
    ),
    Problem(
        "moving_sum",
        "running sums",
        "input clk, input areset, input valid, input [3:0] sample, output [5:0] sum, output ready",
        terse="Sum of the last four valid samples; ready once there were four; asynchronous reset.",
        normal="""sum is the sum of the last four samples that came with valid high at a clock edge; samples that have not come
            yet count as zero. ready is high once four have come.
            areset (asynchronous, active high) forgets all samples.""",
        detailed="""At each rising edge of clk with valid = 1 sample is stored as the newest of four, and the oldest is dropped.
            sum is the sum of the four stored samples (0 to 60), with zeros for missing ones. ready = 1 from the fourth
            sample after a reset on. areset = 1: the stored samples, and so sum, and ready become 0 at once.""",
        body="""
    reg [15:0] window;
    reg [2:0] count;
    assign ready = count[2];
    assign sum = {2'd0, window[3:0]} + {2'd0, window[7:4]} + {2'd0, window[11:8]} + {2'd0, window[15:12]};
    always @(posedge clk or posedge areset) begin
        if (areset) begin
            window <= 16'd0;
            count <= 3'd0;
        end else if (valid) begin
            window <= {window[11:0], sample};
            if (!ready) count <= count + 3'd1;
        end
    end
""",
        mutants="""+ {2'd0, window[15:12]} =>
            if (!ready) count => count
            else if (valid) => else
            window <= 16'd0; =>
            {2'd0, window[3:0]} + {2'd0, window[7:4]} => {1'd0, window[3:0] + window[7:4]}""",
        drive={"areset": "bits(5) == 0"},
    ),
    Problem(
        "peak_hold",
        "running sums",
        "input clk, input reset, input [7:0] sample, output reg [7:0] high, output reg [7:0] low",
        terse="Largest and smallest signed sample since the synchronous reset.",
        normal="""Keep the largest (high) and the smallest (low) signed sample. A sample comes at each clock edge.
            With reset (synchronous, active high) both become the sample of that edge.""",
        detailed="""sample, high and low are 8-bit two's complement. At the rising edge of clk: reset = 1: high = low = sample.
            Otherwise high = sample if sample > high, low = sample if sample < low (signed), and else they hold.""",
        body="""
    always @(posedge clk) begin
        if (reset || $signed(sample) > $signed(high)) high <= sample;
        if (reset || $signed(sample) < $signed(low)) low <= sample;
    end
""",
        mutants="""$signed(sample) > $signed(high) => sample > high
            $signed(sample) < $signed(low) => sample < low
            if (reset || $signed(sample) > $signed(high)) high <= sample; => if (reset) high <= 0; else if ($signed(sample) > $signed(high)) high <= sample;
            > $signed(high) => < $signed(high)""",
        drive={"reset": "bits(3) == 0", "sample": "bits(8)"},
    ),
    Problem(
        "restoring_divider",
        "iterative arithmetic",
        "input clk, input reset, input start, input [7:0] dividend, input [7:0] divisor, "
        "output reg [7:0] quotient, output reg [7:0] remainder, output busy, output reg done",
        terse="Unsigned 8-bit divider, one bit a cycle: start, 8 busy cycles, done; synchronous reset.",
        normal="""Sequential unsigned divider. start while not busy takes dividend and divisor; busy is high for the next eight
            cycles, then done is high for one cycle, with quotient and remainder, which hold until the next result.
            Division by zero gives quotient 255 and remainder dividend. reset (synchronous, active high) clears all outputs.""",
        detailed="""At a rising edge of clk with busy = 0 and start = 1 (also in the cycle of done) the operands are taken. busy is then 1
            for exactly eight cycles; in the next cycle busy = 0, done = 1, quotient = dividend / divisor and remainder =
            dividend mod divisor. Both results are 0 after reset and change only when a division is finished. start is
            ignored while busy = 1. divisor = 0: quotient = 8'hff, remainder = dividend. reset = 1 at an edge: busy, done,
            quotient and remainder are 0, and a division under way is dropped.""",
        body="""
    reg [3:0] left;
    reg [7:0] rest, bits_left, by;
    wire [8:0] shifted;
    assign busy = left != 4'd0;
    assign shifted = {rest, bits_left[7]};
    wire fits;
    assign fits = shifted >= {1'b0, by};
    wire [7:0] new_rest;
    assign new_rest = fits ? shifted[7:0] - by : shifted[7:0];
    always @(posedge clk) begin
        done <= 1'b0;
        if (reset) begin
            left <= 4'd0;
            quotient <= 8'd0;
            remainder <= 8'd0;
        end else if (busy) begin
            left <= left - 4'd1;
            rest <= new_rest;
            bits_left <= {bits_left[6:0], fits};
            if (left == 4'd1) begin
                done <= 1'b1;
                quotient <= {bits_left[6:0], fits};
                remainder <= new_rest;
            end
        end else if (start) begin
            left <= 4'd8;
            rest <= 8'd0;
            bits_left <= dividend;
            by <= divisor;
        end
    end
""",
        mutants="""shifted >= {1'b0, by} => shifted > {1'b0, by}
            left <= 4'd8 => left <= 4'd7
            rest <= 8'd0; =>
            fits ? shifted[7:0] - by : shifted[7:0] => shifted[7:0] - by
            else if (busy) => else if (busy && !start)
            left == 4'd1 => left == 4'd2""",
        drive={"start": "bits(2) == 0", "divisor": "bits(1) ? word(8) : bits(8) >> bits(3)", "reset": "bits(7) == 0"},
        first="start = 1; dividend = 200; divisor = 7; repeat (9) step; divisor = 0; repeat (10) step; start = 0;",
        steps=200,
    ),
    Problem(
        "serial_multiplier",
        "iterative arithmetic",
        "input clk, input areset, input start, input [3:0] a, input [3:0] b, output reg [7:0] product, output reg ready",
        terse="Shift-and-add 4x4 multiplier, b[0] first, partial sums visible; not ready for four cycles; asynchronous reset.",
        normal="""Sequential unsigned multiplier. start while ready is high takes a and b at the clock edge and sets product to 0; ready
            is then low for four cycles. The edges that end them, i = 0 to 3, add a << i to product if b[i] is 1 (the partial
            sums are visible); after the last, ready is high and product is a*b until the next start. start is ignored while
            ready is low. areset (asynchronous, active high): product 0 and ready high.""",
        detailed="""areset = 1: product = 0, ready = 1 at once. At a rising edge of clk with ready = 1 and start = 1: ready = 0, product
            = 0 and the operands are stored. At each of the next four edges, i = 0 to 3, a << i is added to product if b[i]
            is 1 (so that product shows the partial sums); at the last of them ready becomes 1. With ready = 1 and start = 0
            all holds.""",
        body="""
    reg [7:0] addend;
    reg [3:0] multiplier;
    reg [1:0] place;
    always @(posedge clk or posedge areset) begin
        if (areset) begin
            product <= 8'd0;
            ready <= 1'b1;
            addend <= 8'd0;
            multiplier <= 4'd0;
            place <= 2'd0;
        end else if (!ready) begin
            if (multiplier[0]) product <= product + addend;
            addend <= addend << 1;
            multiplier <= multiplier >> 1;
            place <= place + 2'd1;
            ready <= place == 2'd3;
        end else if (start) begin
            ready <= 1'b0;
            product <= 8'd0;
            addend <= {4'd0, a};
            multiplier <= b;
        end
    end
""",
        mutants="""place == 2'd3 => place == 2'd2
            ready <= 1'b1; => ready <= 1'b0;
            addend << 1 => {4'd0, addend[2:0], 1'b0}
            if (multiplier[0]) product => product
            place == 2'd3 => place == 2'd3 || multiplier == 4'd1
            or posedge areset =>""",
        drive={"areset": "bits(6) == 0"},
        first="start = 1; a = 15; b = 15; repeat (5) step; a = 3; repeat (5) step;",
    ),
    Problem(
        "gcd",
        "iterative arithmetic",
        "input clk, input rst_n, input load, input [5:0] a, input [5:0] b, output reg [5:0] x, output done",
        terse="GCD by subtraction in x (from a) and y (from b); done if x = y or y = 0; x = 0 takes y first; sync low reset.",
        normal="""Euclid by subtraction: load stores a in x and b in y. At each later edge the smaller of x and y is taken from the
            greater until they are equal; done is high while they are, and then x is the result. If y is zero done is high at
            once (the result is a); if x is zero, y moves to x. rst_n: synchronous, active low, clears x and y.""",
        detailed="""Registers x (an output) and y, six bits, unsigned. done = (x = y) or (y = 0), combinational. At the rising edge of
            clk, the first of these that holds: rst_n = 0: x = y = 0. load = 1: x = a, y = b. done = 1: hold. x = 0: x = y
            (y holds). x > y: x = x - y. Otherwise y = y - x. So the GCD of 0 and b is b, that of 0 and 0 is 0.""",
        body="""
    reg [5:0] y;
    assign done = x == y || y == 6'd0;
    always @(posedge clk) begin
        if (!rst_n) {x, y} <= 12'd0;
        else if (load) {x, y} <= {a, b};
        else if (!done) begin
            if (x == 6'd0) x <= y;
            else if (x > y) x <= x - y;
            else y <= y - x;
        end
    end
""",
        mutants="""x > y => x < y
            || y == 6'd0 =>
            else if (load) => else if (load && done)
            y <= y - x => {x, y} <= {x, x - y}
            if (x == 6'd0) x <= y; => if (x == 6'd0) y <= x;""",
        drive={
            "load": "bits(3) == 0",
            "a": "bits(3) == 0 ? 0 : bits(2) * 4 + bits(2) * 3",
            "b": "bits(3) == 0 ? 0 : bits(2) * 4 + bits(2) * 6",
            "rst_n": "bits(6) != 0",
        },
        first="load = 1; a = 48; b = 36; step; load = 0; repeat (6) step; load = 1; a = 0; b = 9; step; load = 0; repeat (4) step;",
        steps=200,
    ),
]
