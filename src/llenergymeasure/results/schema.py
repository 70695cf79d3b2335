"""What may other programs expect in a result file?

Run as a module it prints the schema, which is how `result.schema.json` beside it is made.
"""

from __future__ import annotations

import json
import sys

from pydantic import JsonValue

from llenergymeasure.results.models import ExperimentResult


def result_schema() -> dict[str, JsonValue]:
    """The JSON Schema (draft 2020-12) of the object that `result.json` holds."""
    schema: dict[str, JsonValue] = ExperimentResult.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(result_schema(), indent=2, ensure_ascii=False) + "\n")
