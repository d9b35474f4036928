"""docs/results.schema.json, the JSON Schema of results.json: `python -m bench.report.schema > docs/results.schema.json`."""

import json
import sys

from bench.results import Results


def schema() -> str:
    """The schema as the file has it."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Results.model_json_schema()}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
