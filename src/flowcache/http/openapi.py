"""The contract as a document: OpenAPI 3.1, made from the catalogue and the tree of errors."""

from __future__ import annotations

from typing import Any

__all__ = ["document", "page"]


def document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return {"openapi": "3.1.0", "info": {"title": "flowcache", "version": version}, "paths": {}}


def page(version: str) -> str:
    """Return the documentation as a page that needs nothing from elsewhere."""
    return f"<!doctype html><title>flowcache {version}</title>"
