"""What is recorded of the machine."""

import platform

from common.machine import processor

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1

processor\t: 1
cpu family\t: 25
model\t\t: 1
model name\t: AMD EPYC
"""


def test_two_kinds_of_processor_with_one_name_are_told_apart(tmp_path):
    (tmp_path / "cpuinfo").write_text(EPYC)
    assert processor(tmp_path / "cpuinfo") == "AMD EPYC (family 25, model 17)"


def test_a_processor_that_says_less_has_the_name_that_is_known(tmp_path):
    known = platform.processor() or platform.machine()
    (tmp_path / "arm").write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    assert processor(tmp_path / "arm") == processor(tmp_path / "none") == known
