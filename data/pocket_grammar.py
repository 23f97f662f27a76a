"""Define the pocket world: small functions composed of a source, a stop, a condition, a transform and a finish.

A composition names one choice for each of the five. It can be described in words, named, and written as code in several
styles, rightly or with the slips that people make (`pocket_code.py`). `make_pocket_tasks.py` turns compositions into
tasks; `make_pocket_coder.py` turns them into the noisy corpus on which the pocket model is pretrained.

In the code templates X is the item (an int, a word or a character), A and B are the two halves of a pair, K and V an
entry's key and value, I a position, E the transformed item and S the sequence of transformed items.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

WORDS = ("sky apple Moon level tree ice banana up noon Kites as eve orange bus Ink lamp echo stats tea oak "
         "radar glass yes Ant").split()  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The source of the items: one parameter (or two), and how a loop goes through it."""

    name: str
    kind: str  # the kind of an item: int, word, char, pair, entry or indexed
    parameters: str
    items: str  # the iterable
    variables: str  # the loop variables, comma separated
    noun: str
    draw: str  # the kind of random arguments, see `draw_arguments`
    edges: tuple[tuple, ...]
    slips: tuple[str, ...] = ()  # wrong iterables


@dataclass(frozen=True)
class Op:
    """A stop, a condition or a transform: two wordings, the right code and its slips."""

    name: str
    noun: str
    verb: str
    code: str
    slips: tuple[str, ...] = ()
    gives: str = ""  # what a transform returns: int or str


@dataclass(frozen=True)
class Finish:
    """The last step: how the result is computed from the transformed items."""

    name: str
    takes: str  # type of the transformed items: int, str or any
    noun: str
    verb: str
    returns: str  # T stands for the type of an item
    tail: tuple[str, ...]  # statements that use S; a single one that uses S once is inlined
    tail_slips: tuple[tuple[str, ...], ...] = ()
    loop: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None = None  # code before, inside and after it
    loop_slips: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = ()


NUMBER_LISTS = (([],), ([0],), ([-1],), ([5],), ([2, 2, 2],), ([-3, -6],), ([10, 10, 5],))
SOURCES = (
    Source("numbers", "int", "numbers: list[int]", "numbers", "x", "numbers", "numbers", NUMBER_LISTS),
    Source("digits", "int", "n: int", "map(int, str(n))", "d", "digits of n", "big", ((0,), (7,), (10,), (55,))),
    Source("range", "int", "n: int", "range(1, n + 1)", "i", "numbers from 1 to n", "small", ((0,), (1,), (2,), (10,)),
           ("range(n)", "range(1, n)")),
    Source("words", "word", "words: list[str]", "words", "w", "words", "words",
           (([],), ([""],), (["a"],), (["Ice", "Ice"],), (["eve", "", "bus"],))),
    Source("text", "char", "text: str", "text", "c", "characters", "text", (("",), ("a",), ("AE",), ("7 7",), ("zz",))),
    Source("table", "entry", "table: dict[str, int]", "table.items()", "k, v", "entries", "table",
           (({},), ({"a": 0},), ({"tea": 5},), ({"oak": -2, "Ink": -2},))),
    Source("adjacent", "pair", "numbers: list[int]", "zip(numbers, numbers[1:])", "a, b", "adjacent pairs", "numbers",
           NUMBER_LISTS, ("zip(numbers, numbers)",)),
    Source("both", "pair", "left: list[int], right: list[int]", "zip(left, right)", "a, b", "pairs", "two",
           (([], []), ([1], []), ([0], [0]), ([3, 3], [3, 1]), ([-1, 4], [-2, 4]))),
    Source("indexed", "indexed", "numbers: list[int]", "enumerate(numbers)", "i, x", "numbers", "numbers",
           NUMBER_LISTS, ("enumerate(numbers, 1)",)),
)  # fmt: skip

ANY = Op("", "the {}", "take the {}", "")
CONDITIONS = {
    "int": (
        ANY,
        Op("even", "the even {}", "keep the even {}", "X % 2 == 0", ("X % 2 == 1", "X % 2")),
        Op("odd", "the odd {}", "keep the odd {}", "X % 2 == 1", ("X % 2 == 0",)),
        Op("positive", "the positive {}", "keep the positive {}", "X > 0", ("X >= 0",)),
        Op("nonzero", "the nonzero {}", "drop the zeros from the {}", "X != 0", ("X > 0",)),
        Op("over_5", "the {} greater than 5", "keep the {} greater than 5", "X > 5", ("X >= 5", "X < 5")),
        Op("at_most_6", "the {} up to 6", "keep the {} up to 6", "X <= 6", ("X < 6",)),
        Op("threes", "the {} divisible by 3", "keep the {} divisible by 3", "X % 3 == 0", ("X % 3", "X // 3 == 0")),
        Op("not_fives", "the {} not divisible by 5", "drop the {} divisible by 5", "X % 5 != 0", ("X % 5 == 0",)),
    ),
    "word": (
        ANY,
        Op("long", "the {} longer than 3 letters", "keep the {} longer than 3 letters", "len(X) > 3", ("len(X) >= 3",)),
        Op("short", "the {} of at most 3 letters", "keep the {} of at most 3 letters", "len(X) <= 3", ("len(X) < 3",)),
        Op("vowel_first", "the {} that start with a vowel", "keep the {} that start with a vowel",
           "X[:1].lower() in list('aeiou')", ("X[0] in 'aeiou'", "X[:1] in 'aeiou'")),
        Op("s_last", "the {} that end in s", "keep the {} that end in s", "X.endswith('s')", ("X[-1] == 's'",)),
        Op("with_a", "the {} with an a", "keep the {} with an a", "'a' in X.lower()", ("'a' in X", "X == 'a'")),
        Op("palindrome", "the {} that are palindromes", "keep the {} that are palindromes", "X == X[::-1]",
           ("X[0] == X[-1]",)),
        Op("nonempty", "the nonempty {}", "drop the empty {}", "X", ("not X",)),
    ),
    "char": (
        ANY,
        Op("vowel", "the {} that are vowels", "keep the vowels of the {}", "X.lower() in 'aeiou'", ("X in 'aeiou'",)),
        Op("consonant", "the {} that are consonants", "keep the consonants of the {}",
           "X.isalpha() and X.lower() not in 'aeiou'", ("X not in 'aeiou'", "X.lower() not in 'aeiou'")),
        Op("digit", "the {} that are digits", "keep the digits of the {}", "X.isdigit()", ("X.isalpha()",)),
        Op("letter", "the {} that are letters", "keep the letters of the {}", "X.isalpha()", ("X != ' '",)),
        Op("upper", "the {} in upper case", "keep the {} in upper case", "X.isupper()", ("X == X.upper()",)),
        Op("lower", "the {} in lower case", "keep the {} in lower case", "X.islower()", ("X == X.lower()",)),
        Op("nonspace", "the {} other than spaces", "drop the spaces from the {}", "X != ' '", ("X == ' '",)),
    ),
    "entry": (
        ANY,
        Op("even", "the {} with an even value", "keep the {} with an even value", "V % 2 == 0", ("V % 2", "K % 2 == 0")),
        Op("positive", "the {} with a positive value", "keep the {} with a positive value", "V > 0", ("V >= 0", "V")),
        Op("over_5", "the {} with a value greater than 5", "keep the {} with a value greater than 5", "V > 5",
           ("V >= 5", "K > 5")),
        Op("long", "the {} with a key longer than 3 letters", "keep the {} with a key longer than 3 letters",
           "len(K) > 3", ("len(K) >= 3", "K > 3")),
        Op("with_a", "the {} with an a in the key", "keep the {} with an a in the key", "'a' in K.lower()",
           ("'a' in K", "'a' in V")),
    ),
    "pair": (
        ANY,
        Op("rising", "the {} that rise", "keep the {} that rise", "A < B", ("A <= B", "A > B")),
        Op("falling", "the {} that fall", "keep the {} that fall", "A > B", ("A >= B", "A < B")),
        Op("equal", "the {} with equal members", "keep the {} with equal members", "A == B", ("A != B",)),
        Op("even_sum", "the {} with an even sum", "keep the {} with an even sum", "(A + B) % 2 == 0", ("A + B % 2 == 0",)),
        Op("far", "the {} more than 3 apart", "keep the {} more than 3 apart", "abs(A - B) > 3",
           ("A - B > 3", "abs(A - B) >= 3")),
        Op("both_positive", "the {} with two positive members", "keep the {} with two positive members",
           "A > 0 and B > 0", ("A > 0 or B > 0", "A + B > 0")),
    ),
    "indexed": (
        ANY,
        Op("even_place", "the {} at even positions", "keep the {} at even positions", "I % 2 == 0",
           ("I % 2 == 1", "X % 2 == 0")),
        Op("odd_place", "the {} at odd positions", "keep the {} at odd positions", "I % 2 == 1", ("X % 2 == 1",)),
        Op("over_place", "the {} greater than their position", "keep the {} greater than their position", "X > I",
           ("X >= I", "X < I")),
        Op("own_place", "the {} equal to their position", "keep the {} equal to their position", "X == I", ("X != I",)),
        Op("after_2", "the {} after position 2", "keep the {} after position 2", "I > 2", ("I >= 2", "X > 2")),
    ),
}  # fmt: skip

INT_TRANSFORMS = (
    Op("", "{}", "", "X", (), "int"),
    Op("doubles", "the doubles of {}", "double each", "X * 2", ("X ** 2",), "int"),
    Op("squares", "the squares of {}", "square each", "X * X", ("X * 2",), "int"),
    Op("successors", "the successors of {}", "add one to each", "X + 1", ("X - 1",), "int"),
    Op("halves", "the whole halves of {}", "halve each, rounding down", "X // 2", ("X / 2",), "int"),
    Op("negatives", "the negatives of {}", "negate each", "-X", ("abs(X)",), "int"),
    Op("last_digits", "the last digits of {}", "take the last digit of each", "abs(X) % 10", ("X // 10",), "int"),
    Op("strings", "the strings of {}", "turn each into a string", "str(X)", ("X",), "str"),
)
TRANSFORMS = {
    "int": INT_TRANSFORMS,
    "word": (
        Op("", "{}", "", "X", (), "str"),
        Op("upper", "{} in upper case", "put each in upper case", "X.upper()", ("X.lower()", "X.title()"), "str"),
        Op("reversed", "the reverses of {}", "reverse each", "X[::-1]", ("X[:-1]",), "str"),
        Op("initials", "the first letters of {}", "take the first letter of each", "X[:1]", ("X[0]",), "str"),
        Op("lengths", "the lengths of {}", "take the length of each", "len(X)", ("len(X) - 1",), "int"),
        Op("twice", "{} written twice", "write each twice", "X + X", ("X + ' ' + X",), "str"),
        Op("a_counts", "the numbers of a in {}", "count the a in each", "X.lower().count('a')", ("X.count('a')",), "int"),
    ),
    "char": (
        Op("", "{}", "", "X", (), "str"),
        Op("upper", "{} in upper case", "put each in upper case", "X.upper()", ("X.lower()",), "str"),
        Op("swapped", "{} with the case swapped", "swap the case of each", "X.swapcase()", ("X.upper()",), "str"),
        Op("twice", "{} written twice", "write each twice", "X * 2", ("X + ' '",), "str"),
        Op("codes", "the codes of {}", "take the code of each", "ord(X)", ("int(X)",), "int"),
    ),
    "entry": (
        Op("keys", "the keys of {}", "take each key", "K", ("V",), "str"),
        Op("values", "the values of {}", "take each value", "V", ("K",), "int"),
        Op("upper_keys", "the upper case keys of {}", "take each key in upper case", "K.upper()", ("K",), "str"),
        Op("value_doubles", "the doubles of the values of {}", "double each value", "V * 2", ("V ** 2",), "int"),
        Op("key_lengths", "the key lengths of {}", "take the length of each key", "len(K)", ("V",), "int"),
        Op("weights", "the key lengths plus the values of {}", "add key length and value of each", "len(K) + V",
           ("K + V",), "int"),
    ),
    "pair": (
        Op("sums", "the sums of {}", "add the two", "A + B", ("A - B",), "int"),
        Op("products", "the products of {}", "multiply the two", "A * B", ("A + B",), "int"),
        Op("gaps", "the gaps within {}", "take the gap between the two", "abs(A - B)", ("A - B", "B - A"), "int"),
        Op("larger", "the larger members of {}", "take the larger of the two", "max(A, B)", ("A", "min(A, B)"), "int"),
        Op("smaller", "the smaller members of {}", "take the smaller of the two", "min(A, B)", ("B", "max(A, B)"), "int"),
    ),
    "indexed": (
        Op("", "{}", "", "X", (), "int"),
        Op("places", "the positions of {}", "take the position of each", "I", ("X",), "int"),
        Op("weighted", "{} times their positions", "multiply each by its position", "I * X", ("I + X",), "int"),
        Op("squares", "the squares of {}", "square each", "X * X", ("X * 2", "I * I"), "int"),
        Op("shifted", "{} plus their positions", "add its position to each", "I + X", ("X + 1",), "int"),
    ),
}  # fmt: skip

NO_STOP = Op("", "", "", "")
STOPS = {
    "int": (Op("until_7", ", stopping at the first 7", "stop at the first 7", "X == 7", ("X > 7",)),),
    "word": (Op("until_up", ", stopping at the word up", "stop at the word up", "X == 'up'", ("X in 'up'",)),),
    "char": (Op("until_space", ", stopping at the first space", "stop at the first space", "X == ' '",
                ("X.isspace() or X.isdigit()",)),),
    "pair": (Op("until_zero", ", stopping at the first zero", "stop at the first zero", "A == 0 or B == 0", ("A == 0",)),),
    "indexed": (Op("until_negative", ", stopping before a negative number", "stop before a negative number", "X < 0",
                   ("X <= 0",)),),
    "entry": (),
}  # fmt: skip

FINISHES = (
    Finish("sum", "int", "the sum of {}", "add them up", "int", ("return sum(S)",), (("return len(S)",),),
           (("total = 0",), ("total += E",), ("return total",)),
           ((("total = 1",), ("total += E",), ("return total",)), (("total = 0",), ("total = E",), ("return total",)))),
    Finish("count", "any", "the number of {}", "count them", "int", ("return len(S)",), (("return sum(S)",),),
           (("count = 0",), ("count += 1",), ("return count",)),
           ((("count = 0",), ("count += E",), ("return count",)), (("count = 1",), ("count += 1",), ("return count",)))),
    Finish("product", "int", "the product of {}", "multiply them", "int",
           ("product = 1", "for value in S:", "    product *= value", "return product"),
           (("product = 0", "for value in S:", "    product *= value", "return product"),),
           (("product = 1",), ("product *= E",), ("return product",)),
           ((("product = 0",), ("product *= E",), ("return product",)),)),
    Finish("max", "int", "the largest of {} (0 if there are none)", "return the largest (0 if there are none)", "int",
           ("return max(S, default=0)",), (("return max(S)",),),
           (("best = None",), ("if best is None or E > best:", "    best = E"), ("return best or 0",)),
           ((("best = 0",), ("if E > best:", "    best = E"), ("return best",)),)),
    Finish("min", "int", "the smallest of {} (0 if there are none)", "return the smallest (0 if there are none)", "int",
           ("return min(S, default=0)",), (("return min(S)",),),
           (("best = None",), ("if best is None or E < best:", "    best = E"), ("return best or 0",)),
           ((("best = 0",), ("if E < best:", "    best = E"), ("return best",)),)),
    Finish("mean", "int", "the mean of {} (0 if there are none)", "return the mean (0 if there are none)", "float",
           ("if not S:", "    return 0", "return sum(S) / len(S)"), (("return sum(S) / len(S)",),),
           (("total = 0", "count = 0"), ("total += E", "count += 1"), ("return total / count if count else 0",)),
           ((("total = 0", "count = 0"), ("total += E", "count += 1"), ("return total / count",)),)),
    Finish("first", "any", "the first of {} (None if there are none)", "return the first (None if there are none)",
           "T | None", ("return S[0] if S else None",), (("return S[0]",),),
           ((), ("return E",), ("return None",)), (((), ("return E",), ("return 0",)),)),
    Finish("last", "any", "the last of {} (None if there are none)", "return the last (None if there are none)",
           "T | None", ("return S[-1] if S else None",), (("return S[-1]",),),
           (("last = None",), ("last = E",), ("return last",)), ((("last = 0",), ("last = E",), ("return last",)),)),
    Finish("list", "any", "{} as a list", "return them as a list", "list[T]", ("return S",), (("return sorted(S)",),),
           (("result = []",), ("result.append(E)",), ("return result",)),
           ((("result = []",), ("result.append(E)",), ("return result[1:]",)),)),
    Finish("ascending", "any", "{}, smallest first", "sort them, smallest first", "list[T]", ("return sorted(S)",),
           (("return S",),)),
    Finish("descending", "any", "{}, largest first", "sort them, largest first", "list[T]",
           ("return sorted(S, reverse=True)",), (("return sorted(S)",), ("return S[::-1]",))),
    Finish("distinct", "any", "{}, sorted without repeats", "sort them without repeats", "list[T]",
           ("return sorted(set(S))",), (("return sorted(S)",), ("return S",)),
           (("result = []",), ("if E not in result:", "    result.append(E)"), ("return sorted(result)",)),
           ((("result = []",), ("result.append(E)",), ("return sorted(result)",)),
            (("result = []",), ("if E not in result:", "    result.append(E)"), ("return result",)))),
    Finish("unique", "any", "{} in order without repeats", "drop repeats and keep the order", "list[T]",
           ("return list(dict.fromkeys(S))",), (("return S",), ("return sorted(set(S))",)),
           (("result = []",), ("if E not in result:", "    result.append(E)"), ("return result",)),
           ((("result = []",), ("result.append(E)",), ("return result",)),)),
    Finish("backwards", "any", "{} from last to first", "turn the order around", "list[T]", ("return S[::-1]",),
           (("return sorted(S, reverse=True)",), ("return S",)),
           (("result = []",), ("result.insert(0, E)",), ("return result",)),
           ((("result = []",), ("result.append(E)",), ("return result",)),)),
    Finish("running", "int", "the running totals of {}", "return the running totals", "list[int]",
           ("total = 0", "totals = []", "for value in S:", "    total += value", "    totals.append(total)",
            "return totals"),
           (("total = 0", "totals = []", "for value in S:", "    totals.append(total)", "    total += value",
             "return totals"),),
           (("total = 0", "totals = []"), ("total += E", "totals.append(total)"), ("return totals",)),
           ((("total = 0", "totals = []"), ("totals.append(total)", "total += E"), ("return totals",)),)),
    Finish("counts", "any", "how often each of {} occurs, as a dictionary", "count each in a dictionary", "dict[T, int]",
           ("counts = {}", "for value in S:", "    counts[value] = counts.get(value, 0) + 1", "return counts"),
           (("counts = {}", "for value in S:", "    counts[value] = 1", "return counts"),
            ("counts = {}", "for value in S:", "    counts[value] += 1", "return counts")),
           (("counts = {}",), ("counts[E] = counts.get(E, 0) + 1",), ("return counts",)),
           ((("counts = {}",), ("counts[E] = 1",), ("return counts",)),
            (("counts = {}",), ("counts[E] += 1",), ("return counts",)))),
    Finish("joined", "str", "{}, joined by dashes", "join them by dashes", "str", ("return '-'.join(S)",),
           (("return ''.join(S)",), ("return ' '.join(S)",)),
           (("result = ''",), ("if result:", "    result += '-'", "result += E"), ("return result",)),
           ((("result = ''",), ("result += E + '-'",), ("return result",)),)),
    Finish("longest", "str", "the longest of {} (empty if there are none)", "return the longest (empty if there are none)",
           "str", ("return max(S, key=len, default='')",), (("return max(S, key=len)",), ("return max(S, default='')",)),
           (("best = ''",), ("if len(E) > len(best):", "    best = E"), ("return best",)),
           ((("best = ''",), ("if E > best:", "    best = E"), ("return best",)),
            (("best = ''",), ("if len(E) >= len(best):", "    best = E"), ("return best",)))),
)  # fmt: skip

STYLES = ("short", "loop", "collect", "steps")


@dataclass(frozen=True)
class Composition:
    source: Source
    stop: Op
    condition: Op
    transform: Op
    finish: Finish

    @property
    def key(self) -> str:
        """The five names of its parts, which identify the composition."""
        parts = (self.source.name, self.stop.name, self.condition.name, self.transform.name, self.finish.name)
        return "/".join(part or "-" for part in parts)

    @property
    def function_name(self) -> str:
        """The function's name, which tells less than the docstring."""
        return f"{self.finish.name}_of_{self.source.name}"

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles in which it can be written: a stop needs a loop, and sorting needs the whole list."""
        if self.stop.code:
            return ("loop", "collect") if self.finish.loop else ("collect",)
        return STYLES if self.finish.loop else ("short", "collect", "steps")


def compositions() -> Iterator[Composition]:
    """Yield every composition whose parts fit together, in a fixed order."""
    for source in SOURCES:
        stops = (NO_STOP, *(STOPS[source.kind] if source.name != "digits" else ()))
        for stop, condition, transform, finish in itertools.product(
            stops, CONDITIONS[source.kind], TRANSFORMS[source.kind], FINISHES
        ):
            if finish.takes in ("any", transform.gives) and not (finish.name == "count" and transform.name):
                yield Composition(source, stop, condition, transform, finish)


def describe(composition: Composition, wording: int) -> str:
    """Describe a composition in one sentence, as a noun phrase (wording 0) or as steps (1)."""
    what = composition.condition.noun.format(composition.source.noun)
    if wording == 0:
        what = composition.finish.noun.format(composition.transform.noun.format(what))
        return f"Return {what}{composition.stop.noun}."
    take = composition.condition.verb.format(composition.source.noun)
    steps = [composition.stop.verb, take, composition.transform.verb, composition.finish.verb]
    sentence = ", ".join(step for step in steps if step)
    return sentence[0].upper() + sentence[1:] + "."


def signature(composition: Composition) -> str:
    returns = composition.finish.returns.replace("T", composition.transform.gives)
    return f"def {composition.function_name}({composition.source.parameters}) -> {returns}:"


def draw_arguments(source: Source, rng: random.Random) -> tuple:
    """Draw random arguments for a function over `source`."""

    def numbers(most: int = 7) -> list[int]:
        return [rng.choice((rng.randint(-9, 15), rng.randint(-4, 8))) for _ in range(rng.randint(1, most))]

    if source.draw == "numbers":
        return (numbers(),)
    if source.draw == "two":
        return numbers(5), numbers(5)
    if source.draw == "small":
        return (rng.randint(1, 18),)
    if source.draw == "big":
        return (rng.randint(10, 10 ** rng.randint(2, 7)),)
    if source.draw == "words":
        return ([rng.choice(WORDS) for _ in range(rng.randint(1, 5))],)
    if source.draw == "text":
        return ("".join(rng.choice("abeioTRAUxyz 0279") for _ in range(rng.randint(2, 9))),)
    return ({word: rng.randint(-4, 12) for word in rng.sample(WORDS, rng.randint(1, 4))},)
