"""The operations a flow can name: request -> command -> answer.

- `catalogue`  the table of all of them, and how a request finds its own
- `operation`  what an operation is
- `strings`, `hashes`, `keys`, `counters`  one module a family
"""
