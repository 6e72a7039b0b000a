"""The parts that the endpoints of one server share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from llama4sdk.guards.guarded import Guarded
from llama4sdk.server.access import Keys
from llama4sdk.server.admission import Admission
from llama4sdk.server.failures import ApiError, Failure
from llama4sdk.server.metrics import Metrics

if TYPE_CHECKING:
    from llama4sdk.backend import Answers, Backend
    from llama4sdk.client import Llama4
    from llama4sdk.server.options import ServerOptions


class Serving:
    """One server: its client, its options and its running requests.

    Args:
        llama: The client in front of the model.
        options: The server's options.
    """

    def __init__(self, llama: Llama4, options: ServerOptions) -> None:
        self.llama = llama
        self.options = options
        self.keys = Keys(options.limits_by_key)
        self.admission = Admission(options.max_running, options.limits_by_key.values())
        self.metrics = Metrics()
        self.begun = int(time.time())

    @property
    def backend(self) -> Backend:
        """The backend that answers."""
        return self.llama.backend

    @property
    def answers(self) -> Answers:
        """The backend as requests reach it: under the client's guards, where it has any."""
        answers = self.llama.answers
        return answers.unattended() if isinstance(answers, Guarded) else answers

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names under which the model is served."""
        return cast("tuple[str, ...]", self.options.model_names) or (self.backend.capabilities.model or "llama4",)

    def named(self, model: str | None) -> str:
        """Return the model's name in an answer.

        Raises:
            ApiError: Status 404 for a model that is not served here.
        """
        if model is None:
            return self.model_names[0]
        if model not in self.model_names:
            names = ", ".join(f"`{name}`" for name in self.model_names)
            raise ApiError(
                Failure(
                    404,
                    f"The model `{model[:200]}` does not exist here; there is {names}.",
                    param="model",
                    code="model_not_found",
                )
            )
        return model
