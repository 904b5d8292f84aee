"""HTTP: an adapter around the operations.

- `data_action`  the way of a request; read this first
- `admission`    whether there is room for one more call
- `standing_lag` which calls to refuse while the event loop is too slow for all
- `body`         a request's body, bounded in size and time
- `app`          one ASGI application: the data action, and `pages` for everything else
- `pages`        health, metrics, documentation, the inspector
- `routing`      from a path to a page, and its answer
- `turns`        what takes a bounded part of each turn of the event loop
- `fair`         turns for what is dear, one client after the other
- `constant`     pages that are made once
- `shared`       pages that are made once for all who ask at the same time, always anew
- `line`         work that is done one by one
- `inspector`    what the service knows of itself, for people
- `openapi`      the contract as a document, made from the catalogue
- `docs`         the same as a page

And the server that runs it, from the outside in:

- `supervisor`   the listening socket, the processes, signals
- `worker`       one process: the application's life around a listener's
- `listener`     accepts connections, bounds them, sees them off
- `connection`   one client: states, order, flow control
- `exchange`     one request and its answer, as ASGI has it
- `framing`      from bytes to requests; no I/O
- `envelope`     what every answer has around it
"""
