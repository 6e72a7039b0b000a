"""The asyncio side of the runtime: requests, sessions and the engine's thread."""
