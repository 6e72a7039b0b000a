"""The typed answer out of the events of a request: partial objects while it comes, the object at its end."""

from __future__ import annotations

from llama4sdk.errors import OutputInvalid
from llama4sdk.events import Done, Event, Partial, TextDelta, ToolCallReady
from llama4sdk.output.form import AnswerForm, MisfitError
from llama4sdk.output.partial import PartialReader


class OutputReader:
    """Adds `Partial` events to those of one request.

    While the answer comes they hold plain JSON data, made of what is surely closed; the last one, right
    before `Done`, holds the object itself. An answer that ends in tool calls, or that was cut off, has none.

    Args:
        form: The form of the answer.
    """

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._partial = PartialReader(form.kinds)
        self._texts: list[str] = []
        self._called = False

    def add(self, event: Event) -> list[Event]:
        """Return the event with those that it brings about.

        Raises:
            OutputInvalid: When the answer is complete and has not the form.
        """
        match event:
            case TextDelta():
                self._texts.append(event.text)
                return [event, *self._so_far(event.text)]
            case ToolCallReady():
                self._called = True
                return [event]
            case Done() if event.finish_reason == "stop" and not self._called:
                return [Partial(self._whole(event.details.get("schema_field"))), event]
            case _:
                return [event]

    def _so_far(self, text: str) -> list[Event]:
        if not self._partial.feed(text):
            return []
        try:
            return [Partial(self._partial.value())]
        except ValueError:
            return []

    def _whole(self, schema_field: object) -> object:
        text = "".join(self._texts)
        try:
            return self._form.parse(text)
        except MisfitError as error:
            dropped = (
                f" The server was given the form as {schema_field} and did not keep to it." if schema_field else ""
            )
            raise OutputInvalid(
                f"The answer has not the form {self._form.spec.name!r}: {error}.{dropped} It is in .raw; "
                "repair=1 lets the model try once more.",
                raw=text,
            ) from None
