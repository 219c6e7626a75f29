"""The Triton kernels, run on the CPU by Triton's interpreter through the shared test bodies."""

import re

import pytest

from tests import interpreted


@pytest.mark.slow
@pytest.mark.skipif(bool(interpreted.why_not()), reason=interpreted.why_not())
@pytest.mark.parametrize(("file", "names", "least"), interpreted.PARTS)
def test_kernels_in_the_interpreter(file: str, names: str, least: int) -> None:
    status, printed = interpreted.run(file, names)
    assert status == 0, printed[-6000:]
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert int(passed[1]) >= least
