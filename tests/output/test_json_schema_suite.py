"""The final check agrees with JSON-Schema-Test-Suite, which is read where LLAMA4_JSON_SCHEMA_SUITE says it lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama4sdk import InvalidRequest
from llama4sdk.output import JsonSchema
from llama4sdk.output.fitting import fit

# The suite's folder, which holds `tests/draft2020-12` and its like; the source archive of jsonschema has it as `json`.
SUITE = os.environ.get("LLAMA4_JSON_SCHEMA_SUITE")
DIALECTS = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
LEAST_ACCEPTED = {"draft4": 0.85, "draft6": 0.85, "draft7": 0.85, "draft2019-09": 0.65, "draft2020-12": 0.6}


def groups(draft: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every core group of one draft, those with a meta-schema of their own aside."""
    assert SUITE is not None
    for file in sorted((Path(SUITE) / "tests" / draft).glob("*.json")):
        for group in json.loads(file.read_text(encoding="utf-8")):
            schema = group["schema"]
            if isinstance(schema, dict):
                group["schema"] = schema = {"$schema": DIALECTS[draft], **schema}
                if "json-schema.org" not in schema["$schema"]:
                    continue
            yield f"{file.name}: {group['description']}", group


@pytest.mark.skipif(SUITE is None, reason="LLAMA4_JSON_SCHEMA_SUITE names no folder")
@pytest.mark.parametrize("draft", DIALECTS)
def test_every_case_of_every_group_that_is_accepted_agrees(draft: str) -> None:
    accepted = refused = cases = 0
    disagreeing: list[str] = []
    for name, group in groups(draft):
        try:
            schema = JsonSchema(group["schema"])
        except InvalidRequest:
            refused += 1
            continue
        accepted += 1
        for case in group["tests"]:
            cases += 1
            problems = fit(schema, case["data"], mending=False)[1]
            if (problems == []) is not case["valid"]:
                disagreeing.append(f"{name}: {case['description']}")
            mended, problems = fit(schema, case["data"])
            if not problems and fit(schema, mended, mending=False)[1]:
                disagreeing.append(f"{name}: {case['description']}, mended")
    print(f"{draft}: {cases} cases in {accepted} groups, {refused} groups refused, {len(disagreeing)} disagree")
    assert disagreeing == []
    assert accepted / (accepted + refused) >= LEAST_ACCEPTED[draft]
