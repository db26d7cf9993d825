from __future__ import annotations

import pytest

from tests.live import end_default_runtime


@pytest.fixture(scope="module", autouse=True)
def default_runtime():
    yield
    end_default_runtime()
