"""Requests to other services, in the background: where to, how, and with what result.

- `urls` says where to; `client` sends, and is imported only where something is: few need it;
- `judging` says what an answer means.
"""
