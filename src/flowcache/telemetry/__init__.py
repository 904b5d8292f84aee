"""Measuring and telling: latency, counters, their exposition, the fleet of workers, logging."""
