"""What the SDK's tests share."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from sdk.bulk_asking import Main


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Runs an async function to its end, on asyncio and on trio."""

    def run(main: Main) -> None:
        anyio.run(main, backend=request.param)

    return run
