"""NICE CXone, called over its API: how a token is had, where the API is, where batches go.

- `grants` are the two ways to a token; `tokens` keeps one until shortly before it expires;
- `target` joins it with the address that batches are posted to.
"""
