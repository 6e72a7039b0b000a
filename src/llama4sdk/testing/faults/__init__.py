"""A loopback server that speaks the OpenAI wire and misbehaves on order, for tests of any client.

    async with FaultServer() as server:
        backend = HttpBackend(server.url_for("reset_mid_stream"))

`MISDEEDS` names what must end in an error, `QUIRKS` what must make no difference. In a process of its
own: `python -m llama4sdk.testing.faults --port 8099`.
"""

from llama4sdk.testing.faults.misdeeds import MISDEEDS, PARTIAL
from llama4sdk.testing.faults.quirks import QUIRKS
from llama4sdk.testing.faults.server import FaultServer
from llama4sdk.testing.faults.wire import Received

__all__ = ["MISDEEDS", "PARTIAL", "QUIRKS", "FaultServer", "Received"]
