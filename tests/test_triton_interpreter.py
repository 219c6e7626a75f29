"""The Triton kernels, run on the CPU by Triton's interpreter through the shared test bodies."""

import re

import pytest

from tests import interpreted
from tests.conftest import INTERPRETED

LEAST_TESTS = 300


@pytest.mark.slow
@pytest.mark.skipif(bool(interpreted.why_not()), reason=interpreted.why_not())
def test_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
    status, printed = pytestconfig.stash[INTERPRETED].result()
    assert status == 0, printed[-6000:]
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert int(passed[1]) >= LEAST_TESTS
