"""List Verilog problems that share or store: arbiters, memories, queues."""

from verilog_testbench import Problem

PROBLEMS = [
    Problem(
        "sticky_arbiter",
        "arbiters",
        "input clk, input reset, input [3:0] request, output reg [3:0] grant",
        terse="Fixed-priority arbiter, bit 0 first; a grant is kept until its request falls; synchronous reset.",
        normal="""Arbiter for four masters with registered one-hot grants. If nobody holds the grant, or its holder's request is low,
            the requesting master with the lowest number gets it at the clock edge, or nobody. A holder that keeps its request
            keeps the grant. reset is synchronous, active high, and takes the grant away.""",
        detailed="""At the rising edge of clk: reset = 1: grant = 0. Otherwise, if grant AND request is not zero, grant holds, whoever else
            asks. Otherwise grant becomes one-hot for the lowest set bit of request (bit 0 goes before bit 3), or 0 if request
            is 0; the change from one master to the next takes no idle cycle.""",
        body="""
    always @(posedge clk) begin
        if (reset) grant <= 4'd0;
        else if ((grant & request) == 4'd0) grant <= request & (~request + 4'd1);
    end
""",
        mutants="""else if ((grant & request) == 4'd0) => else
            (grant & request) == 4'd0 => grant == 4'd0 || request == 4'd0
            request & (~request + 4'd1) => request
            if (reset) => if (reset && request == 4'd0)
            request & (~request + 4'd1) => request[3] ? 4'd8 : request[2] ? 4'd4 : request & 4'd3 & ~{2'd0, request[1] & request[0], 1'b0}""",
        drive={"request": "(request ^ (bits(4) & bits(4)))"},
    ),
    Problem(
        "round_robin",
        "arbiters",
        "input clk, input arst_n, input [3:0] request, input advance, output reg [3:0] grant",
        terse="Combinational round-robin grant of four; the pointer moves past the winner with advance; async low reset.",
        normal="""Round-robin arbiter. grant is one-hot (combinational): the first requesting master from the pointer upwards, 3 being
            followed by 0; it is zero without a request. At a clock edge with advance high and a grant, the pointer moves to
            the master after the winner. arst_n is asynchronous, active low: pointer 0.""",
        detailed="""A 2-bit register pointer. grant has one bit set: the first set bit of request in the order pointer, pointer + 1,
            pointer + 2, pointer + 3 (modulo 4); request = 0 gives grant = 0. At the rising edge of clk with advance = 1 and
            grant not zero: pointer = (number of the granted master) + 1 modulo 4. Otherwise pointer holds.
            arst_n = 0: pointer = 0 at once.""",
        body="""
    reg [1:0] pointer, winner, place;
    integer i;
    always @(*) begin
        grant = 4'd0;
        winner = pointer;
        place = pointer;
        for (i = 3; i >= 0; i = i - 1) begin
            place = pointer + i[1:0];
            if (request[place]) begin
                grant = 4'd1 << place;
                winner = place;
            end
        end
    end
    always @(posedge clk or negedge arst_n) begin
        if (!arst_n) pointer <= 2'd0;
        else if (advance && request != 4'd0) pointer <= winner + 2'd1;
    end
""",
        mutants="""winner + 2'd1 => winner
            advance && request != 4'd0 => request != 4'd0
            advance && request != 4'd0 => advance
            i = 3; i >= 0; i = i - 1 => i = 0; i < 4; i = i + 1
            winner + 2'd1 => pointer + 2'd1
            or negedge arst_n =>""",
    ),
    Problem(
        "fair_pair",
        "arbiters",
        "input clk, input rst_n, input want_a, input want_b, output reg gets_a, output reg gets_b",
        terse="Two-way arbiter; on a tie the one not served last gets it; synchronous active-low reset, a first.",
        normal="""Arbiter of two, decided anew at each clock edge: a single request is granted; if both ask, the one that was not
            granted last wins (a after reset). Grants are registers. rst_n is synchronous, active low, and clears both.""",
        detailed="""At the rising edge of clk: rst_n = 0: gets_a = gets_b = 0 and b counts as served last. Otherwise: neither asks: both
            grants 0, and who was served last is kept. Only one asks: it alone is granted, also twice or more in a row. Both
            ask: the one not served last is granted. The granted one now counts as served last.""",
        body="""
    reg last_a;
    always @(posedge clk) begin
        gets_a <= rst_n && want_a && !(want_b && last_a);
        gets_b <= rst_n && want_b && (!want_a || last_a);
        if (!rst_n) last_a <= 1'b0;
        else if (want_a || want_b) last_a <= want_a && !(want_b && last_a);
    end
""",
        mutants="""!(want_b && last_a) => !want_b
            last_a <= 1'b0 => last_a <= 1'b1
            else if (want_a || want_b) => else
            else if (want_a || want_b) => else if (want_a && want_b)
            rst_n && want_a => want_a""",
        drive={"want_a": "bits(2) != 0", "want_b": "bits(2) != 0"},
    ),
    Problem(
        "register_file",
        "memories",
        "input clk, input write, input [2:0] write_index, input [7:0] data, input [2:0] index_a, input [2:0] index_b, "
        "output [7:0] a, output [7:0] b",
        terse="8x8 register file, two asynchronous read ports, one write port; register 0 is always zero.",
        normal="""Eight registers of eight bits; register 0 is always zero. With write high data goes into register write_index at the
            clock edge. a and b are registers index_a and index_b (combinational; a write is seen after its edge). No reset.""",
        detailed="""At the rising edge of clk with write = 1: register write_index = data, for write_index 1 to 7; writes to register 0
            have no effect. a = register index_a and b = register index_b at all times; index 0 reads as 8'd0. There is no
            bypass: during the cycle of a write the old value is read. Registers have no reset: they are read after a write.""",
        body="""
    reg [7:0] registers [0:7];
    assign a = index_a == 3'd0 ? 8'd0 : registers[index_a];
    assign b = index_b == 3'd0 ? 8'd0 : registers[index_b];
    always @(posedge clk) if (write) registers[write_index] <= data;
""",
        mutants="""index_b == 3'd0 ? 8'd0 : =>
            if (write) =>
            registers[index_b] => registers[index_a]
            registers[index_a] => (write && write_index == index_a ? data : registers[index_a])
            registers[write_index] <= data => registers[write_index] <= {1'b0, data[6:0]}""",
        setup="write = 1; repeat (8) begin data = 8'd17 * write_index; step; write_index = write_index + 1; end",
        drive={"index_a": "bits(2) == 0 ? write_index : bits(3)", "index_b": "bits(3)"},
    ),
    Problem(
        "sync_memory",
        "memories",
        "input clk, input write, input [3:0] address, input [3:0] data, output reg [3:0] read",
        terse="16x4 single-port memory with registered read, read first.",
        normal="""Memory of 16 words of four bits with one port. At each clock edge read takes the word at address as it was
            before the edge, and with write high data is stored there. No reset.""",
        detailed="""At each rising edge of clk: read = memory[address] (the old word, also if it is written at this edge: read first), and
            if write = 1, memory[address] = data. read is a register and holds between edges. Words have no reset and are
            undefined until they are written.""",
        body="""
    reg [3:0] words [0:15];
    always @(posedge clk) begin
        read <= words[address];
        if (write) words[address] <= data;
    end
""",
        mutants="""read <= words[address] => read <= write ? data : words[address]
            read <= words[address] => if (!write) read <= words[address]
            if (write) => if (!write)
            words[address] => words[{1'b0, address[2:0]}]
            words[address] <= data => words[address] <= data | words[address]""",
        setup="write = 1; repeat (16) begin data = ~address; step; address = address + 1; end",
        drive={"address": "bits(2) == 0 ? address : bits(4)"},
    ),
    Problem(
        "tag_match",
        "memories",
        "input clk, input reset, input store, input [1:0] slot, input [4:0] tag, output hit, output reg [1:0] where",
        terse="Content-addressable memory with four tags: which slot holds tag? Synchronous reset empties it.",
        normal="""Four slots for 5-bit tags. store puts tag into slot at the clock edge. hit is high if a filled slot holds tag, where is
            the lowest such slot (0 without a hit), both combinational. reset (synchronous, active high) empties all slots.""",
        detailed="""At the rising edge of clk: reset = 1: all four slots are empty (store is ignored). Otherwise store = 1: slot number slot
            holds tag and is filled. hit = 1 if at least one filled slot holds the present value of tag; where is the lowest
            number of these slots, and 0 if hit = 0. An empty slot never hits, whatever it held before.""",
        body="""
    reg [19:0] tags;
    reg [3:0] filled;
    reg [3:0] same;
    integer i;
    assign hit = |same;
    always @(*) begin
        where = 2'd0;
        for (i = 3; i >= 0; i = i - 1) begin
            same[i] = filled[i] && tags[5 * i +: 5] == tag;
            if (same[i]) where = i[1:0];
        end
    end
    always @(posedge clk) begin
        if (reset) filled <= 4'd0;
        else if (store) begin
            filled[slot] <= 1'b1;
            tags[5'd5 * {3'd0, slot} +: 5] <= tag;
        end
    end
""",
        mutants="""filled[i] && => 
            i = 3; i >= 0; i = i - 1 => i = 0; i < 4; i = i + 1
            if (reset) filled => if (reset && !store) filled
            else if (store) => else
            tags[5 * i +: 5] == tag => tags[5 * i +: 4] == tag[3:0]""",
        setup="store = 1; repeat (4) begin tag = {3'd2, slot}; step; slot = slot + 1; end",
        drive={"tag": "bits(1) ? tag ^ (5'd16 >> bits(3)) : bits(2)", "store": "bits(2) == 0", "reset": "bits(5) == 0"},
        steps=200,
    ),
    Problem(
        "fifo4",
        "queues",
        "input clk, input reset, input push, input [7:0] data_in, input pop, output [7:0] data_out, "
        "output full, output empty, output [2:0] count",
        terse="FIFO of 4 bytes with count, full and empty; oldest byte on data_out, 0 if empty; synchronous reset.",
        normal="""FIFO for four bytes. push stores data_in, pop removes the oldest byte, both at the clock edge; a push is ignored while
            full and a pop while empty. data_out is the oldest byte, 0 if empty. reset: synchronous, active high.""",
        detailed="""At the rising edge of clk: reset = 1 empties the FIFO. Otherwise push takes effect if full = 0, and pop if empty = 0,
            both as seen before the edge: with both while it is full only the pop happens, while it is empty only the push.
            count is the number of bytes held (0 to 4), full = (count = 4), empty = (count = 0). data_out is the oldest byte
            without a delay (first word falls through), and 8'd0 while empty.""",
        body="""
    reg [7:0] bytes [0:3];
    reg [1:0] head;
    reg [2:0] used;
    wire [1:0] tail;
    wire do_push, do_pop;
    assign count = used;
    assign full = used == 3'd4;
    assign empty = used == 3'd0;
    assign do_push = push && !full;
    assign do_pop = pop && !empty;
    assign tail = head + used[1:0];
    assign data_out = empty ? 8'd0 : bytes[head];
    always @(posedge clk) begin
        if (reset) begin
            head <= 2'd0;
            used <= 3'd0;
        end else begin
            if (do_push) bytes[tail] <= data_in;
            if (do_pop) head <= head + 2'd1;
            used <= used + {2'd0, do_push} - {2'd0, do_pop};
        end
    end
""",
        mutants="""push && !full => push
            pop && !empty => pop
            push && !full => push && (!full || pop)
            used == 3'd4 => used == 3'd3
            bytes[head] => bytes[tail - 2'd1]
            empty ? 8'd0 : =>
            head + used[1:0] => head + used[1:0] + 2'd1""",
        drive={"push": "bits(2) >= 1 + cycle[4] * 2", "pop": "bits(2) >= 3 - cycle[4] * 2", "reset": "bits(6) == 0"},
        first="push = 1; repeat (6) begin data_in = data_in + 3; step; end pop = 1; repeat (3) begin data_in = data_in + 3; step; end "
        "push = 0; repeat (6) step; push = 1; repeat (3) begin data_in = data_in + 3; step; end",
    ),
    Problem(
        "stack4",
        "queues",
        "input clk, input areset, input push, input pop, input [3:0] value, output reg [3:0] top, output reg [2:0] depth, "
        "output reg error",
        terse="Stack of 4 nibbles (top 0 if empty); push with pop replaces the top; error sticks on over/underflow; async reset.",
        normal="""Stack for four 4-bit values; top is the one pushed last (0 if empty) and depth their number. push and pop together
            replace the top, also of a full stack. A push alone on a full stack or a pop of an empty one (also together with push)
            changes nothing but sets error, which stays until areset. areset is asynchronous, active high, and empties the stack.""",
        detailed="""areset = 1: depth = 0, error = 0, at once. At the rising edge of clk: push = 1, pop = 0: value goes on top and depth
            + 1, but if depth = 4 only error = 1. push = 0, pop = 1: the top is removed and depth - 1, but if depth = 0 only
            error = 1. Both 1: the top is replaced by value, depth holds, but if depth = 0 only error = 1 and value is lost.
            Both 0: all hold. error stays 1 until areset. top = 4'd0 while depth = 0.""",
        body="""
    reg [11:0] below;
    always @(posedge clk or posedge areset) begin
        if (areset) begin
            {below, top} <= 16'd0;
            depth <= 3'd0;
            error <= 1'b0;
        end else if (pop && depth == 3'd0 || push && !pop && depth == 3'd4) error <= 1'b1;
        else if (push && pop) top <= value;
        else if (push) begin
            {below, top} <= {below[7:0], top, value};
            depth <= depth + 3'd1;
        end else if (pop) begin
            {below, top} <= {4'd0, below};
            depth <= depth - 3'd1;
        end
    end
""",
        mutants="""push && !pop && depth == 3'd4 => push && depth == 3'd4
            pop && depth == 3'd0 => pop && !push && depth == 3'd0
            depth == 3'd4 => depth == 3'd3
            else if (push && pop) top <= value; =>
            {4'd0, below} => {below[11:8], below}
            error <= 1'b1; => begin end""",
        drive={
            "push": "bits(2) >= 1 + cycle[4] * 2",
            "pop": "bits(2) >= 3 - cycle[4] * 2",
            "value": "bits(4)",
            "areset": "bits(5) == 0",
        },
        first="push = 1; repeat (6) begin value = value + 3; step; end pop = 1; step; push = 0; repeat (6) step;",
    ),
    Problem(
        "pipeline_stage",
        "queues",
        "input clk, input rst_n, input in_valid, input [7:0] in_data, output in_ready, "
        "output reg out_valid, output reg [7:0] out_data, input out_ready",
        terse="One-entry valid/ready register, can take and give in one cycle; out_data changes with a byte only; sync low reset.",
        normal="""Pipeline register with valid/ready on both sides: a byte moves at a clock edge where valid and ready are both high.
            in_ready is high if the register is empty or being emptied (out_ready). out_valid and out_data hold until taken;
            out_data changes only when a byte comes in. rst_n is synchronous, active low, and empties it (out_data 0).""",
        detailed="""in_ready = (out_valid = 0) or out_ready (combinational, also during reset). At the rising edge of clk: rst_n = 0:
            out_valid = 0, out_data = 0. Otherwise in_ready = 1: out_valid = in_valid, and out_data = in_data if in_valid = 1
            (else it holds). in_ready = 0: both hold. So one byte a cycle can pass while out_ready is high.""",
        body="""
    assign in_ready = !out_valid || out_ready;
    always @(posedge clk) begin
        if (!rst_n) begin
            out_valid <= 1'b0;
            out_data <= 8'd0;
        end else if (in_ready) begin
            out_valid <= in_valid;
            if (in_valid) out_data <= in_data;
        end
    end
""",
        mutants="""!out_valid || out_ready => !out_valid
            else if (in_ready) => else if (in_valid)
            !out_valid || out_ready => out_ready
            if (in_valid) out_data => out_data
            out_valid <= in_valid; => out_valid <= in_valid || out_valid;""",
        drive={"in_data": "bits(8)"},
    ),
]
