"""The fields that an object's schema names, each with all that its value must fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llama4sdk.errors import InvalidRequest
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class ObjectFields:
    """Fields that can be written.

    Args:
        schemas: The schema of each field, in the order in which they are declared.
        required: The names of those that must be there.
    """

    schemas: Mapping[str, object]
    required: frozenset[str]

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> ObjectFields:
        """Return the fields of an object's schema.

        A required field that is not declared has the schema of additional ones. A name that `propertyNames` does not
        allow is left out, and a field's value also fits the patterns that its name matches.

        Raises:
            InvalidRequest: When a required field cannot be written.
        """
        required = frozenset(cast("Sequence[str]", node.get("required", ())))
        declared = dict(cast("Mapping[str, object]", node.get("properties", {})))
        patterns = cast("Mapping[str, object]", node.get("patternProperties", {}))
        others = node.get("additionalProperties", True)
        names = [*declared, *sorted(required - set(declared))]
        schemas: dict[str, object] = {}
        for name in names:
            own = [schema for pattern, schema in patterns.items() if re.search(pattern, name)]
            if name in declared:
                own.insert(0, declared[name])
            whole = _all_of(own or [others])
            if whole is not False and _is_name(name, node.get("propertyNames", True)):
                schemas[name] = whole
        missing = sorted(required - set(schemas))
        if missing:
            raise InvalidRequest(f"A schema requires the field {missing[0]!r} and allows no such field.")
        return cls(schemas, required)


def _all_of(schemas: Sequence[object]) -> object:
    """Return the schema of the values that fit all of them."""
    if any(schema is False for schema in schemas):
        return False
    telling = [schema for schema in schemas if schema is not True and schema != {}]
    return {"allOf": telling} if len(telling) > 1 else telling[0] if telling else True


def _is_name(name: str, schema: object) -> bool:
    return schema is True or (schema is not False and not fit(JsonSchema(schema), name)[1])
