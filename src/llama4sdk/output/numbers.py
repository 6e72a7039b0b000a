"""Decimal numbers in the schemas of types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

if TYPE_CHECKING:
    from pydantic_core import core_schema


class NumbersAsNumbers(GenerateJsonSchema):
    """Describes a `Decimal` as a number, not as any string as well: few strings are one."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Return the numeric one of the alternatives that pydantic describes."""
        described = super().decimal_schema(schema)
        options = cast("list[dict[str, Any]]", described.get("anyOf", []))
        return next((option for option in options if option.get("type") == "number"), described)
