"""What may other programs expect in a result file?

Run as a module it prints the schema, which is how `result.schema.json` beside it is made.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from pydantic import Field, JsonValue, TypeAdapter

from llenergymeasure.results.meanings import meaning
from llenergymeasure.results.models import ExperimentResult
from llenergymeasure.results.windows import WindowsResult


def result_schema() -> dict[str, JsonValue]:
    """The JSON Schema (draft 2020-12) of the object that `result.json` holds."""
    either: TypeAdapter[ExperimentResult | WindowsResult] = TypeAdapter(
        Annotated[ExperimentResult | WindowsResult, Field(discriminator="kind")]
    )
    schema: dict[str, Any] = either.json_schema(mode="serialization")
    for table, facts in schema["$defs"].items():
        for key, field in facts.get("properties", {}).items():
            if "description" not in field and (text := meaning(table, key)):
                field["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(result_schema(), indent=2, ensure_ascii=False) + "\n")
