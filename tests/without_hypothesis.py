"""Stands in for hypothesis where it is not installed (a GPU machine): its tests are skipped."""

from collections.abc import Callable
from typing import Any

import pytest


class _Anything:
    """Takes every attribute and call that describes a strategy."""

    def __getattr__(self, name: str) -> "_Anything":
        return self

    def __call__(self, *args: object, **kwargs: object) -> "_Anything":
        return self


HealthCheck = strategies = _Anything()


def given(*args: object, **kwargs: object) -> Any:
    return pytest.mark.skip(reason="hypothesis is not installed")


def settings(*args: object, **kwargs: object) -> Callable[[Any], Any]:
    return lambda test: test
