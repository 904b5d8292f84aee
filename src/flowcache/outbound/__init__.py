"""What flowcache sends to other services, beside the calls: to where, how, and what came of it.

- `urls` says where to; `client` sends, and is imported only where something is: few need it;
- `judging` says what an answer means.
"""
