"""What is counted and logged, and how it is shown.

- `counters`    what came of the calls of a worker
- `latency`     the buckets of its histograms
- `totals`      the counters of several workers, added up
- `exposition`  Prometheus text
- `logs`        structured logging
"""
