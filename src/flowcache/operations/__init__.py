"""The operations a flow can name: request -> command -> answer.

- `catalogue`  the table of all of them, and how a request finds its own
- `operation`  what an operation is: its row
- `parameters`  what it takes besides the fields that all have
- `replies`    how replies that many have are read
- `strings`, `hashes`, `keys`, `counters`  one module a family
"""
