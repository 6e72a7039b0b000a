"""Runs the misbehaving server until it is interrupted."""

from __future__ import annotations

import argparse
import sys

import anyio

from llama4sdk.testing.faults import FaultServer


async def _serve(port: int, pause: float) -> None:
    async with FaultServer(port=port, pause=pause) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m llama4sdk.testing.faults", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; any free one by default")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each token")
    arguments = parser.parse_args()
    try:
        anyio.run(_serve, arguments.port, arguments.pause)
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
