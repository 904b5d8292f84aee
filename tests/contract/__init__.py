"""The contract as its callers meet it: over HTTP, against every kind of Redis.

- `conftest`   the fixture `flow`: flowcache in front of each kind in turn
- `backends`   how each kind is started, and how to look into it from outside
- `envelope`   what every answer has to be
- `wire`       requests byte by byte, where a client library would mend them
- `together`   the same call from many threads at the same moment
"""
