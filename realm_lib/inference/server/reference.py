"""The page /docs: the OpenAPI schema as one HTML page without scripts, which opens on a machine without a network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"


def render_reference(schema: dict[str, Any]) -> str:
    """HTML of an OpenAPI 3.1 ``schema``: every operation with its body's fields, examples and statuses."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
    template = environment.get_template("api.html.j2")
    return template.render(info=schema["info"], operations=list(_operations(schema)))


def _operations(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the template shows of each: its body's fields are (name, type, whether required), its examples JSON."""
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            body = _json_schema(operation.get("requestBody", {}), schema)
            answers = operation["responses"]
            required = body.get("required", [])
            fields = body.get("properties", {}).items()
            yield {
                "method": method.upper(),
                "path": path,
                "description": operation.get("description", operation["summary"]),
                "fields": [(name, _type(field), name in required) for name, field in fields],
                "request": _example(body),
                "answer": _example(_json_schema(answers["200"], schema)),
                "statuses": [(status, answer["description"]) for status, answer in answers.items()],
            }


def _json_schema(holder: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body or an answer, its reference followed; of several forms the first; {} where there is none."""
    content: dict[str, Any] = holder.get("content", {}).get("application/json", {}).get("schema", {})
    content = content.get("anyOf", [content])[0]
    if "$ref" in content:
        content = schema["components"]["schemas"][content["$ref"].rpartition("/")[2]]
    return content


def _example(content: dict[str, Any]) -> str | None:
    return json.dumps(content["examples"][0], indent=2) if "examples" in content else None


def _type(field: dict[str, Any]) -> str:
    """As ``text or list of text``."""
    if "anyOf" in field:
        return " or ".join(_type(kind) for kind in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    name = str(field.get("$ref", "")).rpartition("/")[2] or field.get("type", "anything")
    return {"Message": "{role, content}", "string": "text"}.get(name, name)
