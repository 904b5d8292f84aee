"""The schemas of what operators see: ``/inspector`` and ``/inspector/circuits``."""

from __future__ import annotations

from flowcache.admin.inspector.circuits import CONFIGURED
from flowcache.admin.openapi.schema import Schema, obj, ref
from flowcache.ports import Access, Mode
from flowcache.status import CIRCUIT_STATES

__all__ = ["inspector_schemas"]


def inspector_schemas() -> dict[str, Schema]:
    """Return the schema of what `inspector.view` makes."""
    text: Schema = {"type": "string"}
    whole: Schema = {"type": "integer", "minimum": 0}
    number: Schema = {"type": "number", "minimum": 0}
    maybe_text: Schema = {"type": ["string", "null"]}
    state: Schema = {"enum": list(CIRCUIT_STATES)}
    modes = [*Mode, CONFIGURED]
    percentile: Schema = {"type": ["number", "null"], "description": "Null without calls."}
    metrics = {
        "totalRequests": whole,
        "cacheHits": whole,
        "cacheMisses": whole,
        "totalLatency": number | {"description": "Milliseconds of all calls together."},
        "hitRatio": number | {"maximum": 1, "description": "Hits of all lookups, 0 to 1."},
        "avgLatencyMs": number,
        "errors": {
            "type": "object",
            "additionalProperties": whole,
            "description": "Calls that failed, by `code`; `client_gone`: the caller hung up.",
        },
        "latency": obj(dict.fromkeys(("p50Ms", "p95Ms", "p99Ms"), percentile)),
    }
    operations: Schema = {"type": "object", "additionalProperties": ref("CallMetrics")}
    entry: dict[str, Schema] = {
        "timestamp": text | {"format": "date-time"},
        "requestId": text,
        "client": maybe_text,
        "flowId": maybe_text,
        "interactionId": maybe_text,
        "operation": maybe_text,
        "key": maybe_text,
        "outcome": text
        | {
            "description": "`ok`, a failure's code, `cancelled`; `intended` for "
            "a write whose outcome was not recorded."
        },
        "success": {"type": "boolean"},
        "hit": {"type": ["boolean", "null"]},
        "hitRatio": {"type": "boolean", "description": "Whether it was a hit."},
        "latencyMs": number,
        "address": maybe_text | {"description": "Where the caller spoke from."},
        "shard": maybe_text | {"description": "The shard that the command was sent to."},
        "stale": {"type": "boolean", "description": "Whether a replica answered instead."},
        "kind": text
        | {
            "description": "`call`; `intent` and `outcome` of a write that was recorded before it "
            "was done, too; `correction` of what an earlier record of the request says; `refused` "
            "for more refusals of an address; `lost`."
        },
        "detail": maybe_text | {"description": "JSON, of what is no call: more of what was done."},
    }
    rate: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    circuit = {
        "worker": whole,
        "shard": text,
        "access": {"enum": list(Access)},
        "mode": {"enum": list(Mode)},
        "state": state,
        "consecutiveFailures": whole,
        "calls": whole | {"description": "What the two rates are taken of."},
        "failureRate": rate | {"description": "Null without calls."},
        "slowRate": rate | {"description": "Null without calls."},
        "retryAfterSeconds": number,
        "reopened": whole | {"description": "How often, since it was last closed."},
        "refused": whole,
        "wouldRefuse": whole | {"description": "Calls that mode `observe` let through."},
        "transitions": whole,
    }
    worker = {
        "pid": whole,
        "startedAt": text | {"format": "date-time"},
        "inFlight": whole,
        "auditRecords": whole,
        "eventLoop": obj(
            {
                "lagMs": number | {"description": "How late the event loop was a moment ago."},
                "longestLagMs": number | {"description": "The most since the worker started."},
                "lostSeconds": number
                | {"description": "Time in which it did not turn; Redis is not judged by it."},
            },
            type=["object", "null"],
        ),
    }
    key = {
        "active": {"type": "boolean", "description": "Whether it encrypts what is written."},
        "encrypted": whole | {"description": "Values encrypted with it."},
        "decrypted": whole | {"description": "Values decrypted with it."},
    }
    journal = {
        "worker": whole,
        "writer": text | {"description": "Its name in the journal."},
        "path": text,
        "mode": {"enum": ["relaxed", "strict"]},
        "fault": maybe_text,
        "queued": whole,
        "written": whole,
        "lost": whole,
        "tampering": maybe_text
        | {"description": "What is in the journal and is not what was written there."},
        "pruned": whole | {"description": "Records that retention removed."},
        "prunedEarly": whole | {"description": "Of these, those younger than `audit.keep_days`."},
    }
    delivery = {
        "destination": {"enum": ["stream", "file", "http", "cxone"]},
        "delivered": whole,
        "failures": whole | {"description": "Attempts to deliver a batch that failed."},
        "missed": whole | {"description": "Records that retention removed before it had them."},
        "behind": whole | {"description": "Records that it has not had yet."},
        "behindSeconds": number | {"description": "How long the oldest of them has waited."},
        "lastDelivered": maybe_text,
        "fault": maybe_text | {"description": "Why the last attempt failed, if it did."},
        "lastFailed": maybe_text,
        "stopped": {"type": "boolean", "description": "It refused; nothing is tried any more."},
    }
    return {
        "CallMetrics": obj(metrics, description="What came of calls since the workers began."),
        "AuditEntry": obj(
            entry, description="Who touched which key in which interaction, and what came of it."
        ),
        "Circuit": obj(circuit, description="A shard's circuit for one kind of access."),
        "CircuitOrder": {
            "type": "object",
            "description": "For circuits of all workers, those to come included, until another "
            "order covers it or the service ends.",
            "properties": {
                "mode": {
                    "enum": modes,
                    "description": "Who decides: the circuit (`auto`), or you: nothing is let "
                    "through (`forced-open`), everything is (`disabled`), or the circuit judges "
                    "and refuses nobody (`observe`). `configured` takes back what was asked.",
                },
                "shard": maybe_text | {"description": "The name of a shard; without one, all."},
                "access": {
                    "enum": [*Access, None],
                    "description": "The kind of access; without one, all.",
                },
            },
            "required": ["mode"],
            "additionalProperties": False,
            "examples": [{"mode": "forced-open", "shard": "127.0.0.1:7000", "access": "read"}],
        },
        "CircuitsSwitched": obj(
            {
                "mode": {"enum": modes},
                "shard": maybe_text,
                "access": {"enum": [*Access, None]},
                "circuits": whole | {"description": "How many go by another mode now."},
                "workers": whole | {"description": "How many have followed."},
                "silent": whole | {"description": "How many did not answer; they follow later."},
            },
            description="What became of an order.",
        ),
        "Circuits": obj(
            {
                "configured": {"enum": list(Mode), "description": "`breaker.mode`."},
                "overrides": {
                    "type": "array",
                    "items": obj(
                        {
                            "mode": {"enum": modes},
                            "shard": maybe_text,
                            "access": {"enum": [*Access, None]},
                            "by": text | {"description": "Whose credential it was."},
                            "at": text | {"format": "date-time"},
                        }
                    ),
                    "description": "Orders in force; of two for one circuit the later counts.",
                },
                "circuits": {"type": "array", "items": ref("Circuit")},
            },
            description="The circuits of all workers, and what was asked of them.",
        ),
        "Inspector": obj(
            {
                "metrics": {
                    "allOf": [ref("CallMetrics"), obj({"operations": operations})],
                    "description": "Of all calls, and by operation.",
                },
                "auditLogs": {
                    "type": "array",
                    "items": ref("AuditEntry"),
                    "description": "Newest last.",
                },
                "circuitState": state | {"description": "The worst of all circuits."},
                "redisClusterStatus": text | {"description": "`ready`, or the first that is not."},
                "circuits": {"type": "array", "items": ref("Circuit")},
                "retriesAndHedges": obj(
                    dict.fromkeys(
                        (
                            "hedges",
                            "hedgesRefused",
                            "lateHedges",
                            "fallbackReads",
                            "retries",
                            "retriesRefused",
                        ),
                        whole,
                    ),
                    description="Commands that were retried, hedged or answered by a fallback.",
                ),
                "journal": {
                    "type": "array",
                    "items": obj(journal),
                    "description": "How each worker's writing to the audit journal does; empty "
                    "without one.",
                },
                "deliveries": {
                    "type": "array",
                    "items": obj(delivery),
                    "description": "How the audit is delivered to each destination.",
                },
                "tls": {
                    "type": "array",
                    "items": obj(
                        {"worker": whole, "certificateExpires": text | {"format": "date-time"}}
                    ),
                    "description": "What TLS each worker speaks; empty where it is plain HTTP.",
                },
                "encryption": obj(
                    {
                        "keys": {"type": "object", "additionalProperties": obj(key)},
                        "decryptionFailures": {
                            "type": "object",
                            "additionalProperties": whole,
                            "description": "Values that could not be decrypted, by reason.",
                        },
                    },
                    type=["object", "null"],
                    description="Encryption at rest, by the id of each key; null where there is "
                    "none.",
                ),
                "redis": {
                    "type": "array",
                    "items": {"allOf": [obj({"worker": whole}), ref("StoreStatus")]},
                },
                "workers": {"type": "array", "items": obj(worker)},
                "configuration": {"type": "object", "description": "Secrets are masked."},
                "version": text,
            },
            description="What the service knows of itself.",
        ),
    }
