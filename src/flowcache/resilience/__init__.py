"""What keeps one from hurting the rest: a sick shard, a client that calls without end.

The breaker and the guard before each shard, and the rate limit that a fleet has in common.
"""
