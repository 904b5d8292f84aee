"""What the service knows of itself, for people: ``GET /inspector``.

- `view`  the JSON, from what all workers say of themselves; pure
"""
