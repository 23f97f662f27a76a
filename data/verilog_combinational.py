"""List Verilog problems without a clock: gates, vectors, multiplexers, codes (fields: `verilog_testbench.Problem`)."""

from verilog_testbench import Problem

PROBLEMS = [
    Problem(
        "and_or_invert",
        "gates",
        "input a, input b, input c, input d, output y, output y_n",
        terse="AND-OR-invert gate of two pairs, with both polarities of the result.",
        normal="""AND-OR gate: a is paired with b, and c with d.
            y is high if both inputs of a pair are high, y_n is its inverse.""",
        detailed="""Two AND gates feed one OR gate: y = (a AND b) OR (c AND d).
            y_n is always the inverse of y (the AND-OR-invert gate).
            Purely combinational; all ports are one bit wide.""",
        body="""
    assign y = (a & b) | (c & d);
    assign y_n = ~y;
""",
        mutants="""(c & d) => (c ^ d)
            | ( => & (
            ~y => y
            (a & b) => (a & c)""",
    ),
    Problem(
        "majority5",
        "gates",
        "input [4:0] votes, output yes",
        terse="Majority of five votes.",
        normal="""Majority voter: yes is high if at least three of the five
            bits of votes are high.""",
        detailed="""Five voters, one bit each. yes is 1 if three, four or five bits of votes are 1,
            and 0 if none, one or two are. Which of the voters said yes makes no difference.
            Purely combinational.""",
        body="""
    wire [2:0] count;
    assign count = {2'b0, votes[0]} + {2'b0, votes[1]} + {2'b0, votes[2]} + {2'b0, votes[3]} + {2'b0, votes[4]};
    assign yes = count >= 3'd3;
""",
        mutants=""">= 3'd3 => > 3'd3
            >= 3'd3 => >= 3'd2
            >= => <=
            [2:0] count => [1:0] count""",
    ),
    Problem(
        "minterms",
        "gates",
        "input w, input x, input y, input z, output f",
        terse="f(w,x,y,z) = sum of minterms 0, 2, 5, 7, 8, 10, 13 (w is the most significant).",
        normal="""Four-variable function f(w,x,y,z), w most significant:
            f is 1 for the minterms 0, 2, 5, 7, 8, 10 and 13, and 0 for all others.""",
        detailed="""Read {w, x, y, z} as a 4-bit number, w being its most significant bit and z its least.
            f is 1 if that number is 0, 2, 5, 7, 8, 10 or 13.
            f is 0 for 1, 3, 4, 6, 9, 11, 12, 14 and 15. There are no don't-cares.""",
        body="""
    assign f = (~x & ~z) | (~w & x & z) | (x & ~y & z);
""",
        mutants="""(x & ~y & z) => (x & z)
            (~x & ~z) => (~x & z)
            (~w & x & z) => (w & x & z)
            | (x & ~y & z) =>""",
    ),
    Problem(
        "odd_one_out",
        "gates",
        "input a, input b, input c, output [2:0] odd",
        terse="Of three bits, mark the one that differs from the other two.",
        normal="""Compare three bits. odd[0], odd[1], odd[2] stand for a, b, c:
            the bit of the input that differs from the two others is set.
            odd is zero if all three agree.""",
        detailed="""odd[0] is 1 if a differs from b and from c; odd[1] is 1 if b differs from a and from c;
            odd[2] is 1 if c differs from a and from b. At most one bit of odd is set.
            If a, b and c are equal (000 or 111), odd is 3'b000. Purely combinational.""",
        body="""
    assign odd[0] = (a != b) & (a != c);
    assign odd[1] = (b != a) & (b != c);
    assign odd[2] = (c != a) & (c != b);
""",
        mutants="""(a != b) & (a != c) => (a != b)
            odd[0] => odd[2]
            (b != a) & => (b != a) |
            (c != a) => (c == a)""",
    ),
    Problem(
        "swap_bytes",
        "vectors",
        "input [31:0] word_in, input half, output [31:0] word_out",
        terse="Reverse the byte order of a word, or of each of its halves if half is high.",
        normal="""Byte order of a 32-bit word: with half low the four bytes are reversed,
            with half high the two bytes in each 16-bit half change places.""",
        detailed="""Call the bytes of word_in, from the most significant, A B C D.
            half = 0: word_out is D C B A (little endian to big endian).
            half = 1: word_out is B A D C (the same within each 16-bit half).
            The bits within a byte keep their order. Purely combinational.""",
        body="""
    wire [31:0] halves;
    assign halves = {word_in[23:16], word_in[31:24], word_in[7:0], word_in[15:8]};
    assign word_out = half ? halves : {halves[15:0], halves[31:16]};
""",
        mutants="""half ? halves : {halves[15:0], halves[31:16]} => half ? {halves[15:0], halves[31:16]} : halves
            {halves[15:0], halves[31:16]} => {word_in[15:0], word_in[31:16]}
            word_in[7:0], word_in[15:8] => word_in[15:8], word_in[7:0]""",
    ),
    Problem(
        "sign_extend",
        "vectors",
        "input [5:0] immediate, input is_signed, output [15:0] value",
        terse="Extend 6 bits to 16, with the sign if is_signed, else with zeros.",
        normal="""Extend a 6-bit immediate to 16 bits. If is_signed is high the upper bits
            repeat the sign bit immediate[5], otherwise they are zero.""",
        detailed="""value[5:0] is immediate. If is_signed = 1, value[15:6] are ten copies of immediate[5], so that
            6'b100000 (-32) becomes 16'hffe0. If is_signed = 0, value[15:6] is zero: 6'b100000 becomes 16'h0020.
            Purely combinational.""",
        body="""
    assign value = {{10{is_signed & immediate[5]}}, immediate};
""",
        mutants="""is_signed & => is_signed |
            immediate[5] => immediate[4]
            is_signed & immediate[5] => immediate[5]
            {{10{is_signed & immediate[5]}}, => {2'b0, {8{is_signed & immediate[5]}},""",
    ),
    Problem(
        "interleave",
        "vectors",
        "input [7:0] x, input [7:0] y, output [15:0] z",
        terse="Interleave the bits of x (even places) and y (odd places).",
        normal="""Morton code: interleave the bits of two bytes. Bit i of x goes to
            bit 2i of z, and bit i of y to bit 2i+1.""",
        detailed="""z is the Morton (Z-order) code of the point (x, y): z[0] = x[0], z[1] = y[0], z[2] = x[1], z[3] = y[1],
            and so on up to z[14] = x[7], z[15] = y[7]. Purely combinational.""",
        body="""
    genvar i;
    generate
        for (i = 0; i < 8; i = i + 1) begin : bit_pair
            assign z[2 * i] = x[i];
            assign z[2 * i + 1] = y[i];
        end
    endgenerate
""",
        mutants="""i < 8 => i < 7
            = x[i] => = x[7 - i]
            z[2 * i] = x[i] => z[2 * i] = y[7 - i]
            = y[i] => = x[i]""",
    ),
    Problem(
        "lane_mask",
        "vectors",
        "input [31:0] old_word, input [31:0] new_word, input [3:0] lanes, output [31:0] merged",
        terse="Merge two words by byte lanes: new where the lane bit is high.",
        normal="""Byte lanes of a 32-bit bus: where lanes[i] is high, byte i of merged comes
            from new_word, otherwise from old_word. Byte 0 is bits 7 to 0.""",
        detailed="""lanes[0] chooses bits 7:0, lanes[1] bits 15:8, lanes[2] bits 23:16 and lanes[3] bits 31:24.
            A lane bit of 1 takes these eight bits of merged from new_word, a 0 from old_word.
            lanes = 0 gives old_word, lanes = 4'b1111 gives new_word. Purely combinational.""",
        body="""
    wire [31:0] mask;
    assign mask = {{8{lanes[3]}}, {8{lanes[2]}}, {8{lanes[1]}}, {8{lanes[0]}}};
    assign merged = (old_word & ~mask) | (new_word & mask);
""",
        mutants="""(old_word & ~mask) | => (old_word) |
            (old_word & ~mask) | (new_word & mask) => (old_word & mask) | (new_word & ~mask)
            {{8{lanes[3]}}, {8{lanes[2]}}, {8{lanes[1]}}, {8{lanes[0]}}} => {8{lanes}}
            {8{lanes[2]}}, {8{lanes[1]}} => {8{lanes[1]}}, {8{lanes[2]}}""",
    ),
    Problem(
        "bit_borders",
        "vectors",
        "input [7:0] row, input wrap, output [7:0] border",
        terse="Mark bits that differ from their left neighbour; bit 7's is bit 0 if wrap, else a zero.",
        normal="""border[i] is high if row[i] differs from its left neighbour row[i+1].
            Bit 7 has bit 0 as its neighbour if wrap is high, and a constant 0 otherwise.""",
        detailed="""For i from 0 to 6: border[i] = row[i] XOR row[i+1]. For bit 7: if wrap = 1, border[7] = row[7] XOR row[0]
            (the row is a ring); if wrap = 0, border[7] = row[7] (a 0 stands left of the row).
            Purely combinational.""",
        body="""
    assign border = row ^ {wrap & row[0], row[7:1]};
""",
        mutants="""wrap & row[0] => row[0]
            {wrap & row[0], row[7:1]} => {row[6:0], wrap & row[7]}
            row ^ { => row & {
            wrap & => ~wrap &""",
    ),
    Problem(
        "nibble_select",
        "multiplexers",
        "input [31:0] nibbles, input [2:0] index, output [3:0] nibble",
        terse="Take the nibble number index, counted from the least significant, out of 32 bits.",
        normal="""8-to-1 multiplexer of 4-bit words packed in one vector: index 0 selects
            nibbles[3:0], index 1 nibbles[7:4], ... index 7 nibbles[31:28].""",
        detailed="""nibble is nibbles[4*index+3 : 4*index]: eight words of four bits are packed with word 0 in the least
            significant place. All eight values of index are used. Purely combinational.""",
        body="""
    assign nibble = nibbles[{index, 2'b00} +: 4];
""",
        mutants="""{index, 2'b00} => {1'b0, index[1:0], 2'b00}
            {index, 2'b00} => {~index, 2'b00}
            {index, 2'b00} => {1'b0, index, 1'b0}""",
    ),
    Problem(
        "demux8",
        "multiplexers",
        "input [3:0] data, input [2:0] port_index, input valid, output reg [31:0] ports, output reg [7:0] strobes",
        terse="Route data and a strobe to one of eight 4-bit ports if valid; all others are zero.",
        normal="""1-to-8 demultiplexer of 4-bit data. If valid, port number port_index carries data
            (port k is ports[4k+3:4k]) and strobes[port_index] is high. Everything else is zero.""",
        detailed="""ports holds eight ports of four bits, port k at ports[4*k+3 : 4*k].
            valid = 1: port port_index is data and the seven others are 0; strobes is one-hot with bit port_index set
            (also when data is 0).
            valid = 0: ports and strobes are all zero. Purely combinational, no latches.""",
        body="""
    always @(*) begin
        ports = 32'd0;
        strobes = 8'd0;
        if (valid) begin
            ports[{port_index, 2'b00} +: 4] = data;
            strobes[port_index] = 1'b1;
        end
    end
""",
        mutants="""if (valid) begin => begin
            = 1'b1 => = |data
            strobes[port_index] => strobes[~port_index]
            if (valid) => if (!valid)""",
    ),
    Problem(
        "first_valid",
        "multiplexers",
        "input [7:0] a, input a_valid, input [7:0] b, input b_valid, input [7:0] c, input c_valid, "
        "output reg [7:0] y, output reg [1:0] source",
        terse="Pass on the first valid of the channels a, b, c (source 1, 2, 3); zero if there is none.",
        normal="""Priority multiplexer: y is the data of the first valid channel in the order a, b, c.
            source tells which it was: 1 for a, 2 for b, 3 for c.
            Without a valid channel y and source are 0.""",
        detailed="""a goes before b, and b before c. If a_valid = 1: y = a, source = 2'd1, whatever the others do.
            Otherwise if b_valid = 1: y = b, source = 2'd2. Otherwise if c_valid = 1: y = c, source = 2'd3.
            If none is valid y = 0 and source = 0. Purely combinational, no latches.""",
        body="""
    always @(*) begin
        if (a_valid) {source, y} = {2'd1, a};
        else if (b_valid) {source, y} = {2'd2, b};
        else if (c_valid) {source, y} = {2'd3, c};
        else {source, y} = 10'd0;
    end
""",
        mutants="""10'd0 => {2'd0, c}
            if (a_valid) {source, y} = {2'd1, a}; => if (a_valid & ~b_valid) {source, y} = {2'd1, a};
            else if (c_valid) {source, y} = {2'd3, c}; =>
            {2'd2, b} => {2'd1, b}""",
    ),
    Problem(
        "crossbar",
        "multiplexers",
        "input [3:0] west, input [3:0] north, input [1:0] to_east, input [1:0] to_south, "
        "output [3:0] east, output [3:0] south",
        terse="2x2 crossbar; each selector: 0 zero, 1 west, 2 north, 3 west XOR north.",
        normal="""Crossbar switch with two inputs and two outputs of four bits. Each output has a selector:
            0 gives zero, 1 gives west, 2 gives north, 3 gives the XOR of both.
            to_east is the selector of east, to_south that of south.""",
        detailed="""Each output is chosen on its own: selector 2'd0: 4'd0; 2'd1: west; 2'd2: north; 2'd3: west XOR north,
            bit by bit. The selector of east is to_east, the selector of south is to_south.
            Both outputs may take the same input. Purely combinational.""",
        body="""
    assign east = ({4{to_east[0]}} & west) ^ ({4{to_east[1]}} & north);
    assign south = ({4{to_south[0]}} & west) ^ ({4{to_south[1]}} & north);
""",
        mutants="""{4{to_east[1]}} & north) => {4{to_east[0]}} & north)
            ^ => |
            ({4{to_south[0]}} & west) => ({4{to_east[0]}} & west)
            {4{to_south[1]}} & north => {3'b0, to_south[1]} & north""",
    ),
    Problem(
        "decoder_low",
        "codes",
        "input [2:0] address, input enable_n, output [7:0] select_n",
        terse="3-to-8 decoder, enable and outputs active low.",
        normal="""3-to-8 line decoder with an active-low enable and active-low outputs:
            while enable_n is low, only select_n[address] is low; otherwise all outputs are high.""",
        detailed="""enable_n = 0: select_n[address] is 0 and the seven other bits are 1.
            enable_n = 1: select_n is 8'b11111111 whatever address is. Purely combinational.""",
        body="""
    assign select_n = enable_n ? 8'hff : ~(8'd1 << address);
""",
        mutants="""enable_n ? 8'hff : => enable_n ? 8'h00 :
            ~(8'd1 => (8'd1
            8'd1 << address => 8'd128 >> address
            enable_n ? => !enable_n ?""",
    ),
    Problem(
        "priority_encoder",
        "codes",
        "input [7:0] requests, output reg [2:0] index, output any",
        terse="8-to-3 priority encoder; the highest bit wins; any tells if there is one.",
        normal="""Priority encoder: index is the number of the highest bit of requests that is set.
            any is high if a bit is set; index is 0 if none is.""",
        detailed="""index is the position of the most significant 1 of requests (7 if requests[7] is set, 0 if only
            requests[0] is). any = 1 if requests is not zero. For requests = 0: any = 0 and index = 0.
            Purely combinational, no latches.""",
        body="""
    integer i;
    assign any = |requests;
    always @(*) begin
        index = 3'd0;
        for (i = 0; i < 8; i = i + 1) if (requests[i]) index = i[2:0];
    end
""",
        mutants="""|requests => &requests
            i = 0; i < 8; i = i + 1 => i = 7; i >= 0; i = i - 1
            i < 8 => i < 7
            index = 3'd0 => index = 3'd7""",
    ),
    Problem(
        "gray_decode",
        "codes",
        "input [7:0] gray, output [7:0] binary",
        terse="8-bit Gray code to binary.",
        normal="""Convert an 8-bit reflected Gray code to binary: each bit of binary is the
            XOR of the Gray bit in its place and all those above it.""",
        detailed="""binary[7] = gray[7]; for i from 6 down to 0: binary[i] = binary[i+1] XOR gray[i].
            It is the inverse of gray = binary XOR (binary >> 1); so 8'b00000011 becomes 2 and 8'b10000000 becomes 255.
            Purely combinational.""",
        body="""
    genvar i;
    generate
        for (i = 0; i < 8; i = i + 1) begin : place
            assign binary[i] = ^(gray >> i);
        end
    endgenerate
""",
        mutants="""^(gray >> i) => ^(gray << i)
            ^(gray >> i) => gray[i] ^ ((i < 7) & gray[(i + 1) % 8])
            gray >> i => gray[6:0] >> i""",
    ),
    Problem(
        "excess3",
        "codes",
        "input [3:0] bcd, output [3:0] code, output error",
        terse="BCD digit to excess-3; digits above 9 give error and 0.",
        normal="""Convert a BCD digit to the excess-3 code (the digit plus three).
            Inputs above 9 are no digits: error is high for them and code is 0.""",
        detailed="""For bcd from 0 to 9: code = bcd + 3, so 4'd0 becomes 4'b0011 and 4'd9 becomes 4'b1100; error = 0.
            For bcd from 10 to 15: error = 1 and code = 4'b0000. Purely combinational.""",
        body="""
    assign error = bcd > 4'd9;
    assign code = error ? 4'd0 : bcd + 4'd3;
""",
        mutants="""> 4'd9 => >= 4'd9
            > 4'd9 => > 4'd10
            error ? 4'd0 : =>
            4'd3 => 4'd6""",
    ),
    Problem(
        "seven_segment",
        "codes",
        "input [3:0] digit, input blank, output reg [6:0] segments",
        terse="BCD to seven segments {g,f,e,d,c,b,a}, active high; dark if blank or above 9.",
        normal="""BCD to seven-segment decoder; segments is {g,f,e,d,c,b,a}, active high.
            The 6 and the 9 have their tails (segments a and d are lit).
            All segments are off if blank is high or digit is above 9.""",
        detailed="""segments[0] is a (top), then clockwise b, c, d (bottom), e, f, and segments[6] is g (middle); 1 is lit.
            0: 7'h3f, 1: 7'h06, 2: 7'h5b, 3: 7'h4f, 4: 7'h66, 5: 7'h6d, 6: 7'h7d, 7: 7'h07, 8: 7'h7f, 9: 7'h6f.
            If blank = 1, or digit is 10 to 15, segments is 0. Purely combinational, no latches.""",
        body="""
    always @(*) begin
        case (digit)
            4'd0: segments = 7'h3f;
            4'd1: segments = 7'h06;
            4'd2: segments = 7'h5b;
            4'd3: segments = 7'h4f;
            4'd4: segments = 7'h66;
            4'd5: segments = 7'h6d;
            4'd6: segments = 7'h7d;
            4'd7: segments = 7'h07;
            4'd8: segments = 7'h7f;
            4'd9: segments = 7'h6f;
            default: segments = 7'h00;
        endcase
        if (blank) segments = 7'h00;
    end
""",
        mutants="""7'h6f => 7'h67
            default: segments = 7'h00 => default: segments = 7'h7f
            if (blank) => if (!blank)
            7'h06 => 7'h30""",
    ),
    Problem(
        "one_hot_check",
        "codes",
        "input [7:0] lines, output one_hot, output none",
        terse="one_hot: exactly one of the eight lines is high; none: no line is.",
        normal="""Check a one-hot bus: one_hot is high if exactly one bit of lines is set,
            none is high if no bit is set.""",
        detailed="""one_hot = 1 if lines is one of 1, 2, 4, 8, 16, 32, 64, 128, and 0 for every other value, 0 among them.
            none = 1 only for lines = 0. With two or more bits set both outputs are 0. Purely combinational.""",
        body="""
    assign none = lines == 8'd0;
    assign one_hot = !none && (lines & (lines - 8'd1)) == 8'd0;
""",
        mutants="""!none && =>
            lines - 8'd1 => lines + 8'd1
            = !none && (lines & (lines - 8'd1)) == 8'd0 => = ^lines
            lines == 8'd0 => lines != 8'd0""",
    ),
    Problem(
        "parity_check",
        "codes",
        "input [7:0] data, input parity_bit, input odd, output error",
        terse="Check the parity bit of a byte, even parity or odd.",
        normal="""Parity checker: error is high if data and parity_bit together do not have the parity
            asked for, which is even if odd is low and odd if it is high.""",
        detailed="""Count the ones among the eight bits of data and parity_bit (nine bits).
            odd = 0 (even parity): error = 1 if the count is odd. odd = 1: error = 1 if the count is even.
            Purely combinational.""",
        body="""
    assign error = ^data ^ parity_bit ^ odd;
""",
        mutants="""^ odd =>
            ^data ^ parity_bit => ^data
            ^data => ^data[6:0]
            = ^data => = ~^data""",
        first="data = 255; parity_bit = 0; odd = 0; step; odd = 1; step; data = 254; parity_bit = 1; step;",
    ),
    Problem(
        "hamming_correct",
        "codes",
        "input [6:0] received, output [3:0] data, output [2:0] place",
        terse="Hamming (7,4) decoder: positions 1 to 7 are bits 0 to 6; correct one error.",
        normal="""Decode a Hamming (7,4) word with even parity and correct a single wrong bit.
            Position p (1 to 7) is received[p-1]; parity bits are at 1, 2, 4 and data[0..3] at 3, 5, 6, 7.
            place is the position of the wrong bit, 0 if there is none.""",
        detailed="""Position p is received[p-1]. Positions 1, 2 and 4 are parity bits (even parity), positions 3, 5, 6 and 7 carry
            data[0], data[1], data[2] and data[3]. place[0] is the XOR of positions 1, 3, 5, 7; place[1] of 2, 3, 6, 7;
            place[2] of 4, 5, 6, 7. If place is not zero, the bit at that position is inverted before data is taken.
            Purely combinational.""",
        body="""
    wire [3:0] flip;
    assign place[0] = received[0] ^ received[2] ^ received[4] ^ received[6];
    assign place[1] = received[1] ^ received[2] ^ received[5] ^ received[6];
    assign place[2] = received[3] ^ received[4] ^ received[5] ^ received[6];
    assign flip = {place == 3'd7, place == 3'd6, place == 3'd5, place == 3'd3};
    assign data = {received[6], received[5], received[4], received[2]} ^ flip;
""",
        mutants="""^ flip =>
            {received[6], received[5], received[4], received[2]} => {received[2], received[4], received[5], received[6]}
            place == 3'd3 => place == 3'd2
            received[3] ^ received[4] ^ received[5] ^ received[6] => received[3] ^ received[4] ^ received[5]""",
    ),
]
