"""Authorisation: what a client may do. Default deny: what was not given is refused.

- `verdict`      may this principal do this? read this first
- `principal`    a client, and what it may do
- `permissions`  what can be given
- `keys`         patterns of keys, and namespaces
- `networks`     from where a client may call
"""
