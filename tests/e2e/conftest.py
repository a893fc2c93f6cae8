"""Every test that takes `store` runs with the store in the folder of `gramserve up` and with one on real S3."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    """Where the store is; "" leaves it to `gramserve up`."""
    return str(request.getfixturevalue("s3_url")) if request.param == "s3" else ""
