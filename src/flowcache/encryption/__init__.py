"""Encryption at rest: what a client stores in a sealed space, Redis holds as ciphertext only.

- `vault`     the executor that seals what is written and opens what is read: the way of a command
- `envelope`  what a sealed value looks like, byte by byte
- `keyring`   the keys of a worker: one seals, all open
- `keys`      where keys come from, and how they are written down
- `xaes`      AES-256-GCM with nonces so long that chance may choose them

A *space* is a namespace of keys, or all keys without one. Whether a key is sealed follows from
where it lies in Redis and from nothing else: two clients of one namespace can't disagree, and no
operation, route or batch that goes by the vault can forget it. What the vault does not know how to
seal it refuses. Why it is so: docs/decisions/0019-encryption-at-rest.md.
"""
