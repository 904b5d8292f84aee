"""Redis: one store for a standalone server, Sentinel and Cluster.

Read in this order:

- `settings`    where Redis is and how to talk to it
- `redis_store` the store: pack, send, return the reply
- `routes`      which link leads to a key, kept true while servers change
- `pursuit`     what happens when something else than a reply comes back
- `link`        the pipelined connection that many requests share
- `bulk`        a connection of its own for what is large
- `deadlines`   one timer for all the replies that are waited for
- `replies`     error replies, and what follows from each
- `commands`    a command -> bytes; which scripts make what atomic
- `slots`       which slot a key belongs to; keys made by flowcache
- `topology`    who holds what; `discovery` asks the servers
- `connection`  the border to redis-py: connect, authenticate, translate its errors
- `causes`      why a connection can't be made, and what that is to callers
- `cancelling` ending tasks for sure
- `embedded`    a Valkey of our own, for a first try and for tests
"""
