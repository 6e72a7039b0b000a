"""A backend that stands in for a model in the documentation's snippets: fitting answers without any network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama4sdk.testing import ScriptedBackend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama4sdk.prompting import PromptTemplate
    from llama4sdk.request import Request


class StandIn(ScriptedBackend):
    """Answers with the form that is asked for, else with a call where there are tools, else in words.

    Args:
        template: How prompts are rendered and counted.
    """

    def __init__(self, template: PromptTemplate) -> None:
        super().__init__(answer)
        self.prompt_template = template


def answer(request: Request) -> str:
    """Return the answer to a request."""
    if request.output is not None:
        return _json(_instance(request.output.schema, request.output.schema))
    if request.tools and request.messages[-1].role == "user":
        tool = request.tools[0]
        arguments = _instance(tool.parameters, tool.parameters)
        return f"[{tool.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})]"
    return "The capital of France is Paris."


def _instance(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Any:
    """Return a value of a schema's form."""
    if "$ref" in schema:
        return _instance(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _instance(each, whole) for name, each in schema.get("properties", {}).items()}
        case "array":
            return [_instance(schema["items"], whole)]
        case "integer" | "number":
            return 36
        case "boolean":
            return True
        case _:
            return "Ada"


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
