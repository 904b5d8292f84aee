"""An HTTP/1.1 server for one ASGI application. It knows nothing of what it serves.

From the outside in:

- `supervisor`   the listening sockets, the processes, signals
- `child`        a process that the supervisor forks
- `worker`       one process: the application's life around its listeners
- `listener`     accepts connections, bounds them, sees them off
- `tls`          TLS between a socket and a connection
- `connection`   one client: states, order, flow control
- `exchange`     one request and its answer, as ASGI has it
- `direct`       a second way to the application, for requests that came whole
- `framing`      from bytes to requests; no I/O
- `refusal`      what the server itself answers
- `turns`        what takes a bounded part of each turn of the event loop
- `asgi`, `wire`, `clocks`   types that these share
"""
