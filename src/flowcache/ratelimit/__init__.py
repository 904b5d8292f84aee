"""How often a client may call.

- `buckets`  token buckets of one process
- `shared`   a bucket that a fleet has in common, kept in Redis
"""
