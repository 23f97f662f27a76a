"""List Verilog problems that calculate without a clock: adders, comparators, counts, shifts, decimals, small ALUs."""

from verilog_testbench import Problem

PROBLEMS = [
    Problem(
        "adder8",
        "adders",
        "input [7:0] a, input [7:0] b, input carry_in, output [7:0] sum, output carry_out",
        terse="8-bit adder with carry in and carry out.",
        normal="""Add two 8-bit numbers and a carry bit.
            sum has the lower eight bits of the result, carry_out the ninth.""",
        detailed="""{carry_out, sum} = a + b + carry_in as a 9-bit unsigned number: 255 + 255 + 1 gives carry_out = 1 and
            sum = 8'hff. Purely combinational.""",
        body="""
    assign {carry_out, sum} = {1'b0, a} + {1'b0, b} + {8'd0, carry_in};
""",
        mutants="""+ {8'd0, carry_in} =>
            + {8'd0, carry_in} => - {8'd0, carry_in}
            {1'b0, a} + {1'b0, b} => {1'b0, a + b}
            + {1'b0, b} => - {1'b0, b}""",
        first="a = 255; b = 255; carry_in = 1; step; b = 0; step; a = 127; step;",
    ),
    Problem(
        "add_sub8",
        "adders",
        "input [7:0] a, input [7:0] b, input subtract, output [7:0] result, output overflow",
        terse="8-bit signed add or subtract with overflow flag.",
        normal="""Two's complement adder and subtractor: result is a + b, or a - b if subtract is high.
            overflow is high if the true result does not fit into eight signed bits.""",
        detailed="""a, b and result are 8-bit two's complement numbers. subtract = 0: result = a + b; subtract = 1: result = a - b;
            both wrap modulo 256. overflow = 1 if the exact result is below -128 or above 127: so 127 + 1 and -128 - 1
            overflow, and so does 0 - (-128); 255 as a bit pattern is -1, and -1 + 1 does not. Purely combinational.""",
        body="""
    wire [7:0] operand;
    assign operand = subtract ? ~b : b;
    assign result = a + operand + {7'd0, subtract};
    assign overflow = (a[7] == operand[7]) && (result[7] != a[7]);
""",
        mutants="""+ {7'd0, subtract} =>
            subtract ? ~b : b => subtract ? b : ~b
            (a[7] == operand[7]) => (a[7] == b[7])
            (a[7] == operand[7]) && =>""",
        first="a = 127; b = 1; subtract = 0; step; a = 128; subtract = 1; step; a = 0; b = 128; step;",
    ),
    Problem(
        "saturating_add",
        "adders",
        "input [7:0] a, input [7:0] b, output [7:0] sum, output clipped",
        terse="Signed 8-bit adder that saturates at -128 and 127.",
        normal="""Add two signed bytes with saturation: a result above 127 becomes 127, one below
            -128 becomes -128. clipped is high if that happened.""",
        detailed="""a, b and sum are 8-bit two's complement. If a + b is in -128..127, sum is a + b and clipped = 0.
            If a + b > 127, sum = 8'h7f and clipped = 1. If a + b < -128, sum = 8'h80 and clipped = 1.
            Purely combinational.""",
        body="""
    wire [8:0] wide;
    assign wide = {a[7], a} + {b[7], b};
    assign clipped = wide[8] != wide[7];
    assign sum = clipped ? {wide[8], {7{~wide[8]}}} : wide[7:0];
""",
        mutants="""{wide[8], {7{~wide[8]}}} => 8'h7f
            {a[7], a} + {b[7], b} => {1'b0, a} + {1'b0, b}
            clipped ? {wide[8], {7{~wide[8]}}} : =>
            {7{~wide[8]}} => 7'd0""",
    ),
    Problem(
        "average_up",
        "adders",
        "input [7:0] a, input [7:0] b, input round_up, output [7:0] average",
        terse="Mean of two unsigned bytes, halves rounded up if round_up is high, else down.",
        normal="""Mean of two unsigned 8-bit numbers. If the sum is odd, round_up decides whether
            the half is rounded up or down. The sum must not overflow.""",
        detailed="""round_up = 0: average = floor((a + b) / 2); round_up = 1: average = ceil((a + b) / 2). The sum has nine bits:
            the average of 255 and 255 is 255, of 255 and 0 it is 127 or 128. Purely combinational.""",
        body="""
    wire [7:0] differing;
    assign differing = a ^ b;
    assign average = (a & b) + {1'b0, differing[7:1]} + {7'd0, round_up & differing[0]};
""",
        mutants="""& differing[0] =>
            round_up & => ~round_up &
            (a & b) + {1'b0, differing[7:1]} => ((a + b) >> 1)
            {1'b0, differing[7:1]} => differing""",
        first="a = 255; b = 255; round_up = 1; step; round_up = 0; step; b = 0; step; round_up = 1; step;",
    ),
    Problem(
        "compare_mixed",
        "comparators",
        "input [5:0] a, input [5:0] b, input is_signed, output less, output equal, output greater",
        terse="Compare two 6-bit numbers, signed or unsigned.",
        normal="""6-bit comparator. is_signed chooses whether a and b are two's complement or unsigned.
            Exactly one of less (a < b), equal (a = b) and greater (a > b) is high.""",
        detailed="""is_signed = 0: a and b are 0..63. is_signed = 1: a and b are -32..31 in two's complement, so that 6'b100000 is
            the smallest value. less = a < b, equal = a == b, greater = a > b; exactly one is 1. Purely combinational.""",
        body="""
    wire [5:0] flip;
    assign flip = {is_signed, 5'd0};
    assign less = (a ^ flip) < (b ^ flip);
    assign equal = a == b;
    assign greater = !less && !equal;
""",
        mutants="""< (b ^ flip) => <= (b ^ flip)
            {is_signed, 5'd0} => {~is_signed, 5'd0}
            {is_signed, 5'd0} => 6'd0
            !less && !equal => !less""",
        drive={"b": "bits(2) == 0 ? a : word(6)"},
        steps=250,
    ),
    Problem(
        "largest3",
        "comparators",
        "input [7:0] a, input [7:0] b, input [7:0] c, output [7:0] largest, output [1:0] index",
        terse="Largest of three unsigned bytes and its index (0 a, 1 b, 2 c; the first on a tie).",
        normal="""largest is the greatest of three unsigned bytes, index says which one it is:
            0 for a, 1 for b, 2 for c. On a tie the lowest index counts.""",
        detailed="""All numbers are unsigned. largest = max(a, b, c). index = 0 if a is as large as the two others; otherwise 1 if b
            is as large as c; otherwise 2. So equal values give the first of them. Purely combinational.""",
        body="""
    wire a_first, b_first;
    assign a_first = a >= b && a >= c;
    assign b_first = !a_first && b >= c;
    assign largest = a_first ? a : b_first ? b : c;
    assign index = {!a_first && !b_first, b_first};
""",
        mutants="""a >= b && a >= c => a > b && a > c
            b >= c => b > c
            a >= b && a >= c => a >= b
            a >= b && a >= c => a <= b && a <= c""",
        drive={"b": "bits(2) == 0 ? a : word(8)", "c": "bits(2) == 0 ? b : bits(2) == 0 ? a : word(8)"},
        steps=250,
    ),
    Problem(
        "distance",
        "comparators",
        "input [7:0] a, input [7:0] b, input [7:0] limit, output [7:0] difference, output is_close",
        terse="Absolute difference of two unsigned bytes; is_close if it is at most limit.",
        normal="""difference is |a - b| of two unsigned bytes.
            is_close is high if it is not greater than limit.""",
        detailed="""a, b and limit are unsigned. difference = a - b if a >= b, else b - a; it never wraps (0 and 255 are 255 apart).
            is_close = 1 if difference <= limit, which includes equality. Purely combinational.""",
        body="""
    assign difference = a >= b ? a - b : b - a;
    assign is_close = difference <= limit;
""",
        mutants="""a >= b ? a - b : b - a => a - b
            difference <= limit => difference < limit
            a >= b => a[6:0] >= b[6:0]
            difference <= limit => limit <= difference""",
        drive={"limit": "bits(1) ? word(8) : (a > b ? a - b : b - a) + bits(1)"},
    ),
    Problem(
        "in_window",
        "comparators",
        "input [4:0] value, input [4:0] low, input [4:0] high, output in_range",
        terse="Is value in the circular range low..high (both included, wraps if low > high)?",
        normal="""Circular range check on 5-bit numbers: in_range is high if value is met when counting up
            from low to high, both included. If low is greater than high the range wraps past 31.""",
        detailed="""low <= high: in_range = 1 if low <= value and value <= high. low > high: in_range = 1 if value >= low or
            value <= high (the range runs over 31 to 0). low = high is a range of one value. Purely combinational.""",
        body="""
    assign in_range = low <= high ? value >= low && value <= high : value >= low || value <= high;
""",
        mutants="""low <= high ? => low < high ?
            : value >= low || value <= high => : 1'b0
            value >= low && value <= high => value >= low && value < high
            : value >= low || => : value > low ||""",
        drive={"low": "bits(2) == 0 ? value : bits(5)", "high": "bits(3) < 2 ? low : bits(2) == 0 ? value : bits(5)"},
        steps=250,
    ),
    Problem(
        "count_ones12",
        "counting bits",
        "input [11:0] flags, output reg [3:0] count",
        terse="Population count of 12 bits.",
        normal="""count is the number of bits of flags that are high (0 to 12).""",
        detailed="""flags has twelve bits. count = flags[0] + flags[1] + ... + flags[11], an unsigned number from 0 to 12 that fits
            into the four bits without loss. Purely combinational, no latches.""",
        body="""
    integer i;
    always @(*) begin
        count = 4'd0;
        for (i = 0; i < 12; i = i + 1) count = count + {3'd0, flags[i]};
    end
""",
        mutants="""i < 12 => i < 11
            i = 0; => i = 1;
            {3'd0, flags[i]} => {3'd0, ~flags[i]}
            count + {3'd0, flags[i]} => {1'b0, count[2:0] + {2'd0, flags[i]}}""",
        drive={"flags": "bits(2) == 0 ? word(12) | word(12) | word(12) : word(12)"},
    ),
    Problem(
        "leading_zeros",
        "counting bits",
        "input [15:0] value, output reg [4:0] zeros",
        terse="Count leading zeros of 16 bits; 16 for zero.",
        normal="""zeros is the number of zero bits above the most significant 1 of value.
            It is 16 if value is zero.""",
        detailed="""value[15] = 1 gives 0; value = 1 gives 15; value = 0 gives 16, which is why zeros has five bits.
            Bits below the most significant 1 make no difference. Purely combinational, no latches.""",
        body="""
    integer i;
    always @(*) begin
        zeros = 5'd16;
        for (i = 0; i < 16; i = i + 1) if (value[i]) zeros = 5'd15 - i[4:0];
    end
""",
        mutants="""5'd16 => 5'd15
            5'd15 - => 5'd16 -
            5'd15 - i[4:0] => i[4:0]
            i = 0; i < 16; i = i + 1 => i = 15; i >= 0; i = i - 1""",
        drive={"value": "word(16) >> bits(4)"},
        first="value = 0; step; value = 1; step; value = 16'hffff; step;",
    ),
    Problem(
        "longest_run",
        "counting bits",
        "input [7:0] pattern, output reg [3:0] longest",
        terse="Length of the longest run of ones in 8 bits.",
        normal="""longest is the length of the longest run of adjacent ones in pattern (0 to 8).
            The ends are not joined.""",
        detailed="""A run is a group of neighbouring bits that are all 1. longest is the number of bits in the longest run: 0 for
            8'h00, 8 for 8'hff, 3 for 8'b11011101. Bit 7 and bit 0 are not neighbours. Purely combinational, no latches.""",
        body="""
    integer i;
    reg [3:0] run;
    always @(*) begin
        longest = 4'd0;
        run = 4'd0;
        for (i = 0; i < 8; i = i + 1) begin
            run = pattern[i] ? run + 4'd1 : 4'd0;
            if (run > longest) longest = run;
        end
    end
""",
        mutants="""i < 8 => i < 7
            : 4'd0; => : run;
            if (run > longest) longest = run; => longest = run;
            pattern[i] ? => !pattern[i] ?""",
    ),
    Problem(
        "rotate_left",
        "shifters",
        "input [7:0] data, input [2:0] amount, input right, output [7:0] rotated",
        terse="Rotate a byte left, or right if right is high, by 0 to 7 places.",
        normal="""Barrel shifter: rotate data by amount places, to the left if right is low and
            to the right if it is high. Bits that leave at one end come in at the other.""",
        detailed="""right = 0: rotated[i] = data[(i - amount) mod 8], so rotating 8'b10000001 by one gives 8'b00000011.
            right = 1: rotated[i] = data[(i + amount) mod 8]. amount = 0 leaves data as it is. Purely combinational.""",
        body="""
    wire [2:0] left;
    assign left = right ? 3'd0 - amount : amount;
    assign rotated = (data << left) | (data >> (4'd8 - {1'b0, left}));
""",
        mutants="""| (data >> (4'd8 - {1'b0, left})) =>
            right ? 3'd0 - amount : amount => amount
            3'd0 - amount => ~amount
            4'd8 - => 4'd7 -""",
    ),
    Problem(
        "shift16",
        "shifters",
        "input [15:0] data, input [3:0] amount, input [1:0] mode, output reg [15:0] shifted",
        terse="Shifter; mode 0 left, 1 logical right, 2 arithmetic right, 3 rotate right.",
        normal="""16-bit shifter by 0 to 15 places. mode 0 shifts left, 1 right filling with zeros,
            2 right filling with the sign bit, 3 rotates right.""",
        detailed="""mode 2'd0: data << amount (zeros come in). 2'd1: data >> amount (zeros come in at the top). 2'd2: arithmetic
            shift right, copies of data[15] come in. 2'd3: rotate right, bits leaving at the bottom come in at the top.
            amount = 0 leaves data as it is in every mode. Purely combinational, no latches.""",
        body="""
    always @(*) begin
        case (mode)
            2'd0: shifted = data << amount;
            2'd1: shifted = data >> amount;
            2'd2: shifted = $signed(data) >>> amount;
            default: shifted = (data >> amount) | (data << (5'd16 - {1'b0, amount}));
        endcase
    end
""",
        mutants="""$signed(data) >>> => data >>>
            | (data << (5'd16 - {1'b0, amount})) =>
            = data >> amount => = $signed(data) >>> amount
            5'd16 - => 5'd15 -""",
    ),
    Problem(
        "bcd_adder",
        "decimal",
        "input [3:0] a, input [3:0] b, input carry_in, output [3:0] digit, output carry_out",
        terse="Add two BCD digits and a carry.",
        normal="""One digit of a decimal adder: digit and carry_out are the units and the tens of
            a + b + carry_in, where a and b are BCD digits (0 to 9).""",
        detailed="""a and b are 0 to 9; other values do not occur. Let s = a + b + carry_in (0 to 19). If s > 9: carry_out = 1 and
            digit = s - 10, else carry_out = 0 and digit = s. So 9 + 9 + 1 gives carry_out = 1, digit = 9. Combinational.""",
        body="""
    wire [4:0] sum;
    assign sum = {1'b0, a} + {1'b0, b} + {4'd0, carry_in};
    assign carry_out = sum > 5'd9;
    assign digit = carry_out ? sum[3:0] + 4'd6 : sum[3:0];
""",
        mutants="""> 5'd9 => > 5'd10
            + {4'd0, carry_in} =>
            carry_out ? sum[3:0] + 4'd6 : =>
            = sum > 5'd9 => = sum[3:0] > 4'd9""",
        drive={"a": "bits(8) % 10", "b": "bits(8) % 10"},
        first="a = 9; b = 9; carry_in = 1; step; carry_in = 0; step; b = 0; step; b = 1; step;",
        steps=200,
    ),
    Problem(
        "to_decimal",
        "decimal",
        "input [7:0] value, output [1:0] hundreds, output [3:0] tens, output [3:0] units",
        terse="Byte to three decimal digits.",
        normal="""Convert an unsigned byte to its decimal digits: value = 100*hundreds + 10*tens + units.""",
        detailed="""value is 0 to 255. hundreds is 0 to 2, tens and units are 0 to 9 in binary (BCD digits):
            255 gives 2, 5, 5 and 109 gives 1, 0, 9. Leading digits are zeros. Purely combinational.""",
        body="""
    reg [17:0] work;
    integer i;
    always @(*) begin
        work = {10'd0, value};
        for (i = 0; i < 8; i = i + 1) begin
            if (work[11:8] > 4'd4) work[11:8] = work[11:8] + 4'd3;
            if (work[15:12] > 4'd4) work[15:12] = work[15:12] + 4'd3;
            work = work << 1;
        end
    end
    assign {hundreds, tens, units} = work[17:8];
""",
        mutants="""work[11:8] > 4'd4 => work[11:8] > 4'd5
            work[15:12] > 4'd4 => work[15:12] > 4'd9
            i < 8 => i < 7
            {hundreds, tens, units} => {hundreds, units, tens}""",
    ),
    Problem(
        "multiply_signed",
        "multiply and divide",
        "input [3:0] a, input [3:0] b, input is_signed, output [7:0] product",
        terse="4x4 multiplier, signed or unsigned.",
        normal="""Multiply two 4-bit numbers to an 8-bit product. With is_signed high a, b and product
            are two's complement, otherwise unsigned.""",
        detailed="""is_signed = 0: product = a * b with a and b from 0 to 15 (15 * 15 = 225 = 8'he1). is_signed = 1: a and b are
            -8 to 7: 4'b1111 * 4'b1111 is (-1) * (-1) = 8'h01, and (-8) * (-8) is 8'h40. Purely combinational.""",
        body="""
    wire [7:0] wide_a, wide_b;
    assign wide_a = {{4{is_signed & a[3]}}, a};
    assign wide_b = {{4{is_signed & b[3]}}, b};
    assign product = wide_a * wide_b;
""",
        mutants="""is_signed & b[3] => 1'b0
            is_signed & => ~is_signed &
            wide_a * wide_b => {4'd0, wide_a[3:0] * wide_b[3:0]}
            is_signed & a[3] => a[3]""",
    ),
    Problem(
        "square_root",
        "multiply and divide",
        "input [7:0] square, output reg [3:0] root, output [4:0] remainder",
        terse="Integer square root of a byte, with the remainder.",
        normal="""root is the largest number whose square is not above the input square,
            remainder is what is left: square = root*root + remainder.""",
        detailed="""root = floor(sqrt(square)), 0 to 15. remainder = square - root * root, at most 2 * root, so 0 to 30.
            Examples: 0 gives 0, 0; 15 gives 3, 6; 16 gives 4, 0; 255 gives 15, 30. Purely combinational, no latches.""",
        body="""
    integer i;
    always @(*) begin
        root = 4'd0;
        for (i = 1; i < 16; i = i + 1) if (i[7:0] * i[7:0] <= square) root = i[3:0];
    end
    assign remainder = square[4:0] - {1'b0, root} * {1'b0, root};
""",
        mutants="""<= square => < square
            i < 16 => i < 15
            {1'b0, root} * {1'b0, root} => {1'b0, root * root}
            square[4:0] - => {1'b0, square[3:0]} -""",
    ),
    Problem(
        "remainder5",
        "multiply and divide",
        "input [7:0] value, output [7:0] quotient, output [2:0] remainder",
        terse="Divide a byte by five: quotient and remainder.",
        normal="""Divide an unsigned byte by the constant 5:
            value = 5*quotient + remainder with remainder from 0 to 4.""",
        detailed="""quotient = floor(value / 5), from 0 to 51; remainder = value mod 5, from 0 to 4. 4 gives 0, 4; 5 gives 1, 0;
            255 gives 51, 0. Purely combinational.""",
        body="""
    assign quotient = value / 8'd5;
    assign remainder = value[2:0] - quotient[2:0] * 3'd5;
""",
        mutants="""8'd5 => 8'd6
            3'd5 => 3'd4
            value / 8'd5 => value >> 2
            quotient[2:0] * => {1'b0, quotient[1:0]} *""",
    ),
    Problem(
        "alu8",
        "alu",
        "input [7:0] a, input [7:0] b, input [2:0] op, output reg [7:0] y, output reg carry, output zero",
        terse="ALU: 0 a+b, 1 a-b, 2 AND, 3 OR, 4 XOR, 5 NOT a, 6 a<<1, 7 a>>1; carry, zero.",
        normal="""8-bit ALU. op: 0 a + b, 1 a - b, 2 a AND b, 3 a OR b, 4 a XOR b, 5 NOT a, 6 a << 1, 7 a >> 1.
            carry is the carry of the sum, the borrow of the difference or the bit shifted out, else 0.
            zero is high if y is zero.""",
        detailed="""Unsigned 8-bit operations. op 0: y = a + b, carry = ninth bit of the sum. op 1: y = a - b modulo 256, carry = 1
            if a < b (borrow). op 2: a AND b. op 3: a OR b. op 4: a XOR b. op 5: NOT a. For op 2 to 5 carry = 0.
            op 6: y = a << 1, carry = a[7]. op 7: y = a >> 1 (a zero comes in), carry = a[0]. b is ignored by 5, 6 and 7.
            zero = 1 if y is 0, for every op. Purely combinational, no latches.""",
        body="""
    assign zero = y == 8'd0;
    always @(*) begin
        carry = 1'b0;
        case (op)
            3'd0: {carry, y} = {1'b0, a} + {1'b0, b};
            3'd1: {carry, y} = {1'b0, a} - {1'b0, b};
            3'd2: y = a & b;
            3'd3: y = a | b;
            3'd4: y = a ^ b;
            3'd5: y = ~a;
            3'd6: {carry, y} = {a, 1'b0};
            default: {y, carry} = {1'b0, a};
        endcase
    end
""",
        mutants="""{1'b0, a} - {1'b0, b} => {1'b0, b} - {1'b0, a}
            {y, carry} = {1'b0, a} => {y, carry} = {a[7], a}
            3'd5: y = ~a => 3'd5: y = ~b
            y == 8'd0 => {carry, y} == 9'd0
            carry = 1'b0; => carry = a < b;""",
        drive={"b": "bits(3) == 0 ? a : bits(3) == 0 ? -a : word(8)"},
        steps=250,
    ),
    Problem(
        "alu_flags",
        "alu",
        "input [3:0] a, input [3:0] b, input [1:0] op, output [3:0] y, output negative, output overflow",
        terse="Signed 4-bit ALU: 0 a+b, 1 a-b, 2 minimum, 3 maximum; overflow flag; negative: sign of the exact result.",
        normal="""Signed 4-bit ALU. op: 0 a + b, 1 a - b, 2 the smaller, 3 the greater of a and b.
            negative is the sign of the exact result, also if it overflows; overflow is high
            if the sum or difference does not fit into four bits.""",
        detailed="""a, b and y are two's complement, -8 to 7. op 0: y = a + b; op 1: y = a - b (both wrap); op 2: y = min(a, b);
            op 3: y = max(a, b). negative is the sign of the result before it wraps: for 7 + 7 it is 0 although y[3] = 1;
            for op 2 and 3 it is y[3]. overflow = 1 if the exact sum or difference is not in -8..7; it is 0 for op 2 and 3.
            Purely combinational.""",
        body="""
    wire [4:0] wide_a, wide_b, sum, difference, exact;
    assign wide_a = {a[3], a};
    assign wide_b = {b[3], b};
    assign sum = wide_a + wide_b;
    assign difference = wide_a - wide_b;
    assign exact = op == 2'd0 ? sum : op == 2'd1 ? difference : (difference[4] ^ op[0]) ? wide_a : wide_b;
    assign y = exact[3:0];
    assign negative = exact[4];
    assign overflow = exact[4] != exact[3];
""",
        mutants="""negative = exact[4] => negative = exact[3]
            (difference[4] ^ op[0]) => (difference[4] == op[0])
            (difference[4] ^ op[0]) => (difference[3] ^ op[0])
            {b[3], b} => {1'b0, b}""",
        steps=300,
    ),
]
