"""HTTP: an adapter around the operations.

- `data_action`  the way of a request; read this first
- `body`         a request's body, bounded in size and time
- `app`          one ASGI application: the data action, and `pages` for everything else
- `pages`        health, metrics, documentation: Starlette
- `inspector`    what the service knows of itself, for people
- `openapi`      the contract as a document, made from the catalogue
- `docs`         the same as a page
- `server`       Granian: workers, signals, the listening socket
"""
