"""The wire: what a flow sends, what it gets back. Pure, no I/O.

- `request`   body bytes -> `Request`, with coercion by each field's declared type
- `bounds`    how many elements and levels a JSON text may have
- `coercion`  the rules of coercion, one function a type
- `answer`    the envelope of every answer
"""
