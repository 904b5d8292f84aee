"""The contract as a page for people, made from the document, with calls to paste."""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import msgspec

from flowcache.admin.openapi import JSON, Schema, document, field_name
from flowcache.api.app import ROUTE
from flowcache.api.data_action import DataActionSettings

__all__ = ["page", "policy"]


_URL = f"$FLOWCACHE{ROUTE}"
"""Where the examples are sent. The reader fills the variable in: made from the request, whose Host
may be anything, the address would not be the same for all readers, nor always the service's."""


def page(
    version: str, settings: DataActionSettings | None = None, need_credential: bool = False
) -> str:
    """Return the document as an HTML page that needs nothing from elsewhere, scripts included."""
    contract = document(version, settings, need_credential)
    call = contract["paths"][ROUTE]["post"]
    asked = call["requestBody"]["content"][JSON]["examples"]
    told = call["responses"]["200"]["content"][JSON]["examples"]
    schemas = contract["components"]["schemas"]
    operations = contract["x-operations"]
    first = operations[0]["name"]
    template = Template((files("flowcache.admin") / "docs.html").read_text("utf-8"))
    return template.substitute(
        version=escape(version),
        route=escape(ROUTE),
        about=_paragraphs(contract["info"]["description"]),
        body=_prose(call["description"]),
        first_call=_command(_curl(asked[first]["value"])),
        first_answer=_json_block(told[first]["value"]),
        untyped_call=_json_block(asked["untyped"]["value"]),
        fields=_table_of_fields(schemas),
        absent=_prose(schemas["Absent"]["description"]),
        operations=_table(
            ("Operation", "What it does", "Takes", "`data`"),
            (
                (
                    f'<a href="#run-{escape(op["name"])}">{_code(op["name"])}</a>',
                    _prose(op["summary"]),
                    _prose(_takes(op)),
                    escape(_in_words(op["data"])),
                )
                for op in operations
            ),
        ),
        calls="".join(_call(op, asked[op["name"]]["value"], told) for op in operations),
        metadata=_properties(schemas["Metadata"]),
        failure_fields=_properties(schemas["FailedAnswer"], ("error", "code", "retryable")),
        failed_answer=_json_block(
            call["responses"]["400"]["content"][JSON]["examples"]["invalid_request"]["value"]
        ),
        codes=_table(
            ("Code", "HTTP", "When", "What a flow does"),
            (
                (_code(c["code"]), str(c["status"]), _prose(c["when"]), _prose(c["advice"]))
                for c in contract["x-codes"]
            ),
        ),
        routes=_table(
            ("Route", "What it does", "Credential"),
            (
                (_code(f"{method.upper()} {path}"), _prose(route["summary"]), _credential(route))
                for path, methods in contract["paths"].items()
                for method, route in methods.items()
            ),
        ),
        limits=_table(
            ("What", "At most"),
            (
                (_prose(row["what"]), escape(f"{row['limit']:,.12g} {row['unit']}"))
                for row in contract["x-limits"]
            ),
        ),
    )


def policy(html: str) -> str:
    """Return the content security policy of a page: its own styles, told by their hash, no more."""
    styles = [
        f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
        for style in re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    ]
    return (
        f"default-src 'none'; style-src {' '.join(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _call(operation: Mapping[str, Any], body: Any, told: Mapping[str, Any]) -> str:
    name = operation["name"]
    permissions = " and ".join(map(_code, operation["permissions"]))
    answers = "".join(
        _json_block(example["value"])
        for label, example in told.items()
        if label == name or label.startswith(f"{name}_")
    )
    return (
        f'<details id="run-{escape(name)}" open><summary>{_code(name)}</summary>'
        f"<p>{_prose(operation['summary'])} Needs {permissions}.</p>"
        f"{_command(_curl(body))}<p>Answers:</p>{answers}</details>"
    )


def _takes(operation: Mapping[str, Any]) -> str:
    """Return what an operation takes besides the fields that all have."""
    return "; ".join(f"`{name}`: {about}" for name, about in operation["takes"].items()) or "none"


def _credential(route: Mapping[str, Any]) -> str:
    schemes = [scheme for requirement in route["security"] for scheme in requirement]
    return f"the {escape(schemes[0])} token" if schemes else "none"


def _table_of_fields(schemas: Mapping[str, Schema]) -> str:
    requests = schemas["Request"]["anyOf"]
    names = dict.fromkeys(name for request in requests for name in request["properties"])
    return _table(
        ("Field", "What it is"),
        (
            (
                _code(name)
                + (" <b>required</b>" if all(name in r["required"] for r in requests) else ""),
                _prose(schemas[field_name(name)]["description"]),
            )
            for name in names
        ),
    )


def _properties(schema: Schema, names: Iterable[str] | None = None) -> str:
    properties = schema["properties"]
    return _table(
        ("Field", "Type", "What it is"),
        (
            (
                _code(name),
                escape(_in_words(properties[name])),
                _prose(properties[name]["description"]),
            )
            for name in names or properties
        ),
    )


def _in_words(schema: Schema) -> str:
    """Name a schema's type for people."""
    match schema:
        case {"anyOf": [*choices]}:
            return " or ".join(map(_in_words, choices))
        case {"type": "object", "additionalProperties": {"type": kind}}:
            return f"object of {kind}s"
        case {"type": str(kind)}:
            return kind
        case _:
            return "any JSON value"


def _curl(body: Any) -> str:
    return (
        f'curl -s "{_URL}" \\\n'
        f'  -H "Authorization: Bearer $TOKEN" \\\n'
        f"  -H 'Content-Type: {JSON}' \\\n"
        f"  -d {shlex.quote(_line(body))}"
    )


def _line(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _command(text: str) -> str:
    return f'<pre class="command" tabindex="0"><code>{escape(text)}</code></pre>'


def _json_block(value: Any) -> str:
    return f'<pre tabindex="0"><code>{escape(_line(value))}</code></pre>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _prose(text: str) -> str:
    """Return a description as HTML; what it quotes with backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _paragraphs(text: str) -> str:
    """Return the little CommonMark of ``info.description`` as HTML: paragraphs and one list."""
    lead, *items = re.split(r"^- ", text, flags=re.MULTILINE)
    listed = "".join(f"<li>{_prose(item.strip())}</li>" for item in items)
    return f"<p>{_prose(lead.strip())}</p><ul>{listed}</ul>"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table of cells that are HTML already.

    On a phone a row is a block that its first cell heads; of several others each is labelled.
    """
    head = "".join(f'<th scope="col">{_prose(name)}</th>' for name in heads)
    labels = [
        f' data-label="{escape(name.replace("`", ""))}"' if place and len(heads) > 2 else ""
        for place, name in enumerate(heads)
    ]
    body = "".join(
        "<tr>" + "".join(map("<td{}>{}</td>".format, labels, row)) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
