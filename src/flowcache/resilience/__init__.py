"""What keeps one sick shard from hurting the rest: breaker, backoff, deadlines, the guard."""
