"""List Verilog problems with control: finite state machines that detect, sell, signal, receive, lock and wait."""

from verilog_testbench import Problem

PROBLEMS = [
    Problem(
        "detect_1011",
        "finite state machines",
        "input clk, input areset, input x, output found",
        terse="Mealy detector of 1011 with overlap; asynchronous reset.",
        normal="""Mealy machine that finds the sequence 1011 in x, one bit a clock cycle, overlaps allowed.
            found is high in the very cycle in which x is the last 1. areset: asynchronous, active high.""",
        detailed="""x is sampled at each rising edge of clk. found (combinational, from the state and x) is 1 while the three bits sampled
            last are 1, 0, 1 and x is 1 now. Overlap: in 1011011 the second match begins with the last 1 of the first.
            areset = 1 forgets all bits at once; bits before a reset never count.""",
        body="""
    reg [1:0] state; // how much of 101 has been seen
    assign found = state == 2'd3 && x;
    always @(posedge clk or posedge areset) begin
        if (areset) state <= 2'd0;
        else begin
            case (state)
                2'd0: state <= x ? 2'd1 : 2'd0;
                2'd1: state <= x ? 2'd1 : 2'd2;
                2'd2: state <= x ? 2'd3 : 2'd0;
                default: state <= x ? 2'd1 : 2'd2;
            endcase
        end
    end
""",
        mutants="""default: state <= x ? 2'd1 : 2'd2 => default: state <= x ? 2'd0 : 2'd2
            default: state <= x ? 2'd1 : 2'd2 => default: state <= x ? 2'd1 : 2'd0
            2'd1: state <= x ? 2'd1 : 2'd2 => 2'd1: state <= x ? 2'd0 : 2'd2
            == 2'd3 && x => == 2'd3
            or posedge areset =>""",
        drive={"areset": "bits(5) == 0", "x": "bits(2) == 0 ? bits(1) : cycle % 3 != 1"},
        first="repeat (3) begin x = 1; step; x = 0; step; end x = 1; repeat (3) step; x = 0; step; areset = 1; step;",
    ),
    Problem(
        "detect_pair",
        "finite state machines",
        "input clk, input reset, input x, output reg match, output reg [2:0] tally",
        terse="Moore detector of 110 or 001, no overlap, with a count modulo 8; synchronous reset.",
        normal="""Moore machine that finds 110 and 001 in the bits of x without overlap: after a match three new bits are
            needed. match is high in the cycle after the last bit; tally counts modulo 8, at the same edge that raises match.
            reset is synchronous, active high, and clears match and tally; before the first bit there is no history.""",
        detailed="""At each rising edge of clk with reset = 0 one bit of x is taken. If the last three bits taken are 1, 1, 0 or 0, 0, 1
            and none of them belongs to an earlier match, match is 1 from that edge to the next and tally goes up by one
            at that same edge. Otherwise match is 0. reset = 1 at an edge: match = 0, tally = 0, no bits remembered.""",
        body="""
    reg [1:0] last, known;
    wire hit;
    assign hit = known == 2'd2 && last[1] == last[0] && x != last[0];
    always @(posedge clk) begin
        last <= {last[0], x};
        match <= hit && !reset;
        if (reset) begin
            known <= 2'd0;
            tally <= 3'd0;
        end else begin
            known <= hit ? 2'd0 : known == 2'd2 ? 2'd2 : known + 2'd1;
            if (hit) tally <= tally + 3'd1;
        end
    end
""",
        mutants="""hit ? 2'd0 : =>
            hit ? 2'd0 => hit ? 2'd1
            last[1] == last[0] && => last[1] &&
            hit && !reset => hit
            x != last[0] => x == last[0]
            if (hit) tally => if (hit && tally != 3'd7) tally""",
        drive={"x": "bits(2) == 0 ? !x : x", "reset": "bits(6) == 0"},
        first="x = 1; repeat (3) step; x = 0; reset = 1; step; reset = 0; repeat (3) step;",
    ),
    Problem(
        "vending_machine",
        "finite state machines",
        "input clk, input reset, input five, input ten, input refund, output reg drink, output reg [5:0] change",
        terse="Vending machine, price 25, coins 5 and 10; drink and change for one cycle; synchronous reset.",
        normal="""Vending machine for a drink at 25 cents. At each clock edge five and ten tell of a coin (both: 15 together).
            When 25 are reached drink is high for one cycle and change is what is too much. refund goes before a drink and gives
            all the money back as change for one cycle, with coins of the same edge. change is 0 in all other cycles.
            drink and change are registers. reset: synchronous, active high, clears everything.""",
        detailed="""At the rising edge of clk let m be the money held plus 5 if five = 1 plus 10 if ten = 1. reset = 1: money = 0,
            drink = 0, change = 0, coins are lost. Otherwise refund = 1: money = 0, drink = 0, change = m (also if m is 25 or
            more). Otherwise m >= 25: money = 0, drink = 1, change = m - 25. Otherwise money = m, drink = 0, change = 0.
            drink and change are registers. The most that can come back is 35 (a refund with both coins at 20).""",
        body="""
    reg [4:0] money;
    wire [5:0] m;
    assign m = {1'b0, money} + (five ? 6'd5 : 6'd0) + (ten ? 6'd10 : 6'd0);
    always @(posedge clk) begin
        money <= 5'd0;
        drink <= 1'b0;
        change <= 6'd0;
        if (!reset) begin
            if (refund) change <= m;
            else if (m >= 6'd25) begin
                drink <= 1'b1;
                change <= m - 6'd25;
            end else money <= m[4:0];
        end
    end
""",
        mutants="""m >= 6'd25 => m > 6'd25
            change <= m; => change <= money;
            (ten ? => (ten && !five ?
            if (refund) => if (refund && m < 6'd25)
            change <= m - 6'd25; =>
            if (!reset) =>""",
        drive={"refund": "bits(4) == 0", "reset": "bits(5) == 0"},
        steps=200,
    ),
    Problem(
        "traffic_light",
        "finite state machines",
        "input clk, input rst_n, input tick, input request, output [2:0] cars, output walk",
        terse="Traffic light {red,yellow,green}: 4 ticks green and a request, 2 yellow, 3 red with walk, 1 red; sync low reset.",
        normal="""Pedestrian light. cars is {red, yellow, green}, one-hot. Green ends at a tick that is at least its fourth and finds
            a request stored at an earlier edge; then yellow for 2 ticks, red with walk for 3 ticks, red for 1 tick, green again.
            Requests are stored at any edge, with tick or without; walk serves them all, also one at the edge that ends it.
            Time passes only in cycles with tick. rst_n: synchronous, active low, to the start of green without a request.""",
        detailed="""States: GREEN (cars 3'b001), YELLOW (3'b010), WALK (3'b100, walk = 1), CLEAR (3'b100, walk = 0); walk = 0 elsewhere.
            A register asked is set at an edge with request = 1 in GREEN, YELLOW or CLEAR and is 0 after every edge at which
            the state is WALK. Edges with tick = 0 change nothing else. A counter of ticks starts at 0 in each state.
            With tick = 1: GREEN: go to YELLOW if the counter is 3 and asked (the register) is 1; the counter stops at 3.
            YELLOW: to WALK at counter 1. WALK: to CLEAR at counter 2. CLEAR: to GREEN at counter 0. Otherwise counter + 1.
            rst_n = 0 at an edge: GREEN, counter 0, asked 0.""",
        body="""
    localparam GREEN = 2'd0, YELLOW = 2'd1, WALK = 2'd2;
    reg [1:0] state, count;
    reg asked;
    reg leave;
    assign cars = {state[1], state == YELLOW, state == GREEN};
    assign walk = state == WALK;
    always @(*) begin
        case (state)
            GREEN: leave = count == 2'd3 && asked;
            YELLOW: leave = count == 2'd1;
            WALK: leave = count == 2'd2;
            default: leave = 1'b1;
        endcase
    end
    always @(posedge clk) begin
        if (!rst_n) begin
            state <= GREEN;
            count <= 2'd0;
            asked <= 1'b0;
        end else begin
            asked <= !walk && (asked || request);
            if (tick && leave) begin
                state <= state + 2'd1;
                count <= 2'd0;
            end else if (tick && count != 2'd3) count <= count + 2'd1;
        end
    end
""",
        mutants="""count == 2'd3 && asked => count == 2'd2 && asked
            count == 2'd3 && asked => count == 2'd3
            YELLOW: leave = count == 2'd1 => YELLOW: leave = count == 2'd2
            asked || request => request
            !walk && =>
            walk = state == WALK => walk = state[1]
            tick && leave => leave""",
        drive={"tick": "bits(2) != 0", "request": "bits(4) == 0", "rst_n": "bits(7) != 0"},
        steps=200,
    ),
    Problem(
        "frame_receiver",
        "finite state machines",
        "input clk, input reset, input line, output reg [3:0] data, output reg good, output reg bad",
        terse="Receiver of frames: start 0, 4 bits (least significant first), even parity, stop 1; synchronous reset.",
        normal="""Serial receiver, one bit a clock cycle; the idle line is 1. A frame is a start bit 0, four data bits with the least
            significant first, an even parity bit and a stop bit 1. After the stop bit good is high for one cycle and data has
            the bits, or bad is high (wrong parity or stop bit) and data keeps. The bit after a stop bit, right or wrong, may be
            a start bit; a wrong stop bit is none. reset is synchronous, active high, and clears data.""",
        detailed="""line is sampled at each rising edge of clk. Idle: a 0 starts a frame, a 1 does nothing. The next four samples are data
            bits 0 to 3, then the parity bit (the five have an even number of ones), then the stop bit. At the edge of the
            stop bit: if parity and stop bit (1) are right, data = the four bits and good = 1; otherwise bad = 1 and data
            holds. good and bad are 0 after every other edge. The next sample may be a new start bit; a wrong stop bit is not
            one. reset = 1 at an edge: idle, data = 0, good = bad = 0.""",
        body="""
    reg [2:0] place; // 0 idle, 1 to 4 data, 5 parity, 6 stop
    reg [3:0] bits;
    reg odd;
    always @(posedge clk) begin
        good <= 1'b0;
        bad <= 1'b0;
        if (reset) begin
            place <= 3'd0;
            data <= 4'd0;
        end else if (place == 3'd0) begin
            odd <= 1'b0;
            if (!line) place <= 3'd1;
        end else if (place == 3'd6) begin
            place <= 3'd0;
            good <= line && !odd;
            bad <= !line || odd;
            if (line && !odd) data <= bits;
        end else begin
            place <= place + 3'd1;
            odd <= odd ^ line;
            if (place != 3'd5) bits <= {line, bits[3:1]};
        end
    end
""",
        mutants="""{line, bits[3:1]} => {bits[2:0], line}
            line && !odd => line && odd
            good <= line && !odd => good <= !odd
            if (line && !odd) data => data
            place == 3'd6) begin => place == 3'd5) begin
            odd <= 1'b0; =>""",
        drive={"line": "bits(2) == 0 ? bits(1) : line ^ (bits(1))", "reset": "bits(7) == 0"},
        steps=200,
    ),
    Problem(
        "combination_lock",
        "finite state machines",
        "input clk, input arst_n, input key, input [3:0] digit, output unlocked, output alarm",
        terse="Lock with code 4, 1, 7: a wrong digit restarts; three before an unlocking raise the alarm; async low reset.",
        normal="""Combination lock: key enters digit at a clock edge. 4, 1, 7 in a row unlocks and forgets failures. A wrong digit is a
            failure and starts again from the first digit (it is not taken as a new 4). The third failure without an unlocking in
            between sets alarm. Any key locks an unlocked lock again; its digit is ignored and no failure. With alarm everything
            stays until arst_n (asynchronous, active low), which gives a locked lock without failures.""",
        detailed="""Registers: right (0 to 3 digits matched) and failures (0 to 3). unlocked = (right = 3), alarm = (failures = 3).
            arst_n = 0: both 0 at once. At the rising edge of clk with key = 1 and alarm = 0: if unlocked, right = 0 (digit is
            ignored, failures hold); else if digit is the code's next one (4, 1, 7 for right = 0, 1, 2), right goes up by one,
            and with the third one failures becomes 0; else right = 0 and failures goes up by one. With key = 0, or with
            alarm = 1, nothing changes.""",
        body="""
    reg [1:0] right, failures;
    wire [3:0] next_digit;
    assign next_digit = right == 2'd0 ? 4'd4 : right == 2'd1 ? 4'd1 : 4'd7;
    assign unlocked = right == 2'd3;
    assign alarm = failures == 2'd3;
    always @(posedge clk or negedge arst_n) begin
        if (!arst_n) {right, failures} <= 4'd0;
        else if (key && !alarm) begin
            if (unlocked) right <= 2'd0;
            else if (digit == next_digit) begin
                right <= right + 2'd1;
                if (right == 2'd2) failures <= 2'd0;
            end else begin
                right <= 2'd0;
                failures <= failures + 2'd1;
            end
        end
    end
""",
        mutants="""key && !alarm => key
            key && !alarm => !alarm
            if (right == 2'd2) failures <= 2'd0; =>
            end else begin => end else if (digit != 4'd4) begin
            if (unlocked) right <= 2'd0; => if (unlocked) right <= 2'd3;
            failures == 2'd3 => failures >= 2'd2""",
        drive={
            "key": "bits(2) != 0",
            "digit": "bits(3) == 0 ? bits(4) : ref_unlocked ? bits(4) : digit == 4 ? 1 : digit == 1 ? 7 : 4",
            "arst_n": "ref_alarm ? bits(2) != 0 : bits(6) != 0",
        },
        steps=200,
    ),
    Problem(
        "debouncer",
        "finite state machines",
        "input clk, input areset, input button, output reg pressed, output reg event_down",
        terse="Debouncer: a level is taken after 4 equal samples; event_down for one cycle on a press; async reset.",
        normal="""Debounce button: pressed changes when button has differed from it at four clock edges in a row.
            event_down is high for one cycle when pressed goes from 0 to 1. areset: asynchronous, active high, gives 0.""",
        detailed="""A counter counts the edges in a row at which button differs from pressed; an edge at which they are equal makes it 0.
            At the fourth such edge pressed takes button's value and the counter is 0 again; event_down is 1 after this edge
            if pressed became 1, and 0 after every other edge. areset = 1: pressed, event_down and the counter are 0 at once.""",
        body="""
    reg [1:0] count;
    always @(posedge clk or posedge areset) begin
        if (areset) begin
            pressed <= 1'b0;
            event_down <= 1'b0;
            count <= 2'd0;
        end else begin
            event_down <= 1'b0;
            if (button == pressed) count <= 2'd0;
            else begin
                count <= count + 2'd1;
                if (count == 2'd3) begin
                    pressed <= button;
                    event_down <= button;
                end
            end
        end
    end
""",
        mutants="""count == 2'd3 => count == 2'd2
            event_down <= button => event_down <= 1'b1
            if (button == pressed) count <= 2'd0; => if (button == pressed) count <= count;
            event_down <= 1'b0; =>
            or posedge areset =>""",
        drive={"button": "bits(3) == 0 ? !button : button", "areset": "bits(6) == 0"},
        steps=200,
    ),
    Problem(
        "handshake",
        "finite state machines",
        "input clk, input reset, input go, input ack, output reg req, output reg ok, output reg timeout",
        terse="Four-phase req/ack master with a timeout of 6 cycles; synchronous reset.",
        normal="""Master of a four-phase handshake: go while idle raises req (whatever ack is); ack high makes req fall; when ack is
            low again ok is high for one clock and the master is idle. If ack is not seen high at six edges with req high, req
            falls, timeout is high for one clock and the master is idle. go counts only while idle, also in a cycle of ok or
            timeout. Outputs change at edges only. reset is synchronous, active high, and gives idle with all outputs 0.""",
        detailed="""States IDLE (req 0), WAIT (req 1), RELEASE (req 0). At the rising edge of clk: reset = 1: IDLE, all outputs 0.
            Otherwise, IDLE: go = 1 leads to WAIT (also if ack is 1). WAIT: ack = 1 leads to RELEASE; at the sixth edge in WAIT
            with ack = 0 to IDLE with timeout = 1. RELEASE: ack = 0 leads to IDLE with ok = 1. ok and timeout are registers that
            are 0 after all other edges; all outputs change at edges only.""",
        body="""
    reg release_wait;
    reg [2:0] waited;
    always @(posedge clk) begin
        ok <= 1'b0;
        timeout <= 1'b0;
        if (reset) begin
            req <= 1'b0;
            release_wait <= 1'b0;
        end else if (req) begin
            waited <= waited + 3'd1;
            release_wait <= ack;
            if (ack || waited == 3'd5) req <= 1'b0;
            timeout <= !ack && waited == 3'd5;
        end else if (release_wait) begin
            release_wait <= ack;
            ok <= !ack;
        end else begin
            req <= go;
            waited <= 3'd0;
        end
    end
""",
        mutants="""waited == 3'd5 => waited == 3'd4
            !ack && waited => waited
            ok <= !ack => ok <= ack
            req <= go => req <= go && !ack
            waited <= 3'd0; =>
            else if (release_wait) => else if (release_wait && !go)""",
        drive={"ack": "bits(2) == 0 ? !ack : bits(3) == 0 ? 0 : ack", "reset": "bits(6) == 0"},
        first="go = 1; repeat (20) step;",
        steps=200,
    ),
]
