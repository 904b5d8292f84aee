"""The workers of one service, as one.

- `messages`     workers ask each other
- `overrides`    what operators want of the circuits, in all workers and those to come
- `shared_file`  a file that several processes write
"""
