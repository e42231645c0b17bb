"""Judges an OpenAPI document: `validate_openapi.py URL-OF-JSON URL-OF-YAML`. Exits with 0 if it is one, and both forms say the same.

Lives here: what openapi-spec-validator, a JSON Schema validator and PyYAML say. Does not: calls of the API (schemathesis).
"""

import json
import sys
import urllib.request

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


document = json.loads(read(sys.argv[1]))
validate(document, cls=OpenAPIV31SpecValidator)
for schema in document["components"]["schemas"].values():
    Draft202012Validator.check_schema(schema)
assert yaml.safe_load(read(sys.argv[2])) == document, "YAML and JSON differ"

# What is meant as an example fits what it is an example of.
resolved = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"]}
examples = 0
for path, item in document["paths"].items():
    for method, operation in item.items():
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            if "example" in media:
                Draft202012Validator({**resolved, **media["schema"]}).validate(media["example"])
                examples += 1
print(f"{len(document['paths'])} paths, {examples} examples")
