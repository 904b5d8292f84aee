"""Where the audit is delivered to: what the settings of it need of each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flowcache.cxone.settings import CxoneSettings, Grant
from flowcache.delivery.settings import DeliverySettings, Endpoint, Shape, Stream

__all__ = ["delivery_part"]

_NEEDS: tuple[tuple[str, str], ...] = (
    ("delivery.stream", "audit.journal"),
    ("delivery.file", "audit.journal"),
    ("delivery.url", "audit.journal"),
    ("delivery.token", "delivery.url"),
    ("cxone.audit_path", "audit.journal"),
    ("cxone.audit_path", "cxone.client_id"),
    ("cxone.audit_path", "cxone.client_secret"),
)
_GRANT_NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    Grant.CLIENT_CREDENTIALS: (("cxone.api_base",),),
    Grant.ACCESS_KEY: (
        ("cxone.access_key_id",),
        ("cxone.access_key_secret",),
        ("cxone.api_base", "cxone.tenant_id"),
    ),
}
"""What each grant needs: one of each group."""


def delivery_part(v: dict[str, Any], faults: list[str]) -> DeliverySettings | None:
    """Return what the delivery needs; None when there are no destinations, or there are faults."""
    needs: list[tuple[str, tuple[str, ...]]] = [(name, (needed,)) for name, needed in _NEEDS]
    needs += [("cxone.audit_path", group) for group in _GRANT_NEEDS.get(v["cxone.grant"], ())]
    before = len(faults)
    for name, group in needs:
        is_bad = any(fault.startswith(group) for fault in faults)  # which says enough
        if v[name] is not None and not is_bad and all(v[each] is None for each in group):
            faults.append(f"{name}: needs {' or '.join(group)}")
    first, longest = v["delivery.retry_seconds"], v["delivery.retry_max_seconds"]
    if first is not None and longest is not None and longest < first:
        faults.append(
            f"delivery.retry_max_seconds = {longest}: shorter than delivery.retry_seconds = {first}"
        )
    file, journal = v["delivery.file"], v["audit.journal"]
    if file is not None and journal is not None and _is_of(journal, file):
        faults.append(
            f"delivery.file = {file}: is audit.journal, or is named as the files beside it are"
        )
    is_well = len(faults) == before and not any(
        fault.startswith(("delivery.", "cxone.", "audit.")) for fault in faults
    )
    if not is_well or v["audit.journal"] is None:
        return None
    stream, url = v["delivery.stream"], v["delivery.url"]
    settings = DeliverySettings(
        v["audit.journal"],
        None if stream is None else Stream(stream.encode(), v["delivery.stream_entries"]),
        v["delivery.file"],
        None if url is None else Endpoint(url, v["delivery.token"]),
        _cxone(v),
        Shape(v["delivery.format"]),
        v["delivery.batch"],
        v["delivery.timeout_seconds"],
        first,
        longest,
        v["delivery.ca_file"],
    )
    return settings if settings.names else None


def _is_of(journal: Path, file: str) -> bool:
    """Tell whether ``file`` is the journal or, by its name, one of those that belong to it."""
    own, there = os.path.realpath(journal), os.path.realpath(file)
    return there == own or there.startswith(f"{own}-")


def _cxone(v: dict[str, Any]) -> CxoneSettings | None:
    if v["cxone.audit_path"] is None:
        return None
    return CxoneSettings(
        v["cxone.audit_path"],
        v["cxone.client_id"],
        v["cxone.client_secret"],
        v["cxone.api_base"],
        Grant(v["cxone.grant"]),
        v["cxone.access_key_id"],
        v["cxone.access_key_secret"],
        v["cxone.tenant_id"],
        v["cxone.auth_base"],
    )
