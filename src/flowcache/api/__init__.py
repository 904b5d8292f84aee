"""What callers reach over HTTP.

- `data_action`  the way of a request; read this first
- `body`         a request's body, bounded in size and time
- `envelope`     what every answer has around it
- `app`          one ASGI application: the data action, and pages (`admin`) for everything else
"""
