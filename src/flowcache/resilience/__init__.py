"""What keeps one sick shard from hurting the rest: the breaker, and the guard before each shard."""
