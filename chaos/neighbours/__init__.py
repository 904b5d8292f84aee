"""One client attacks, three others are beside it: what does it cost them?

- `isolation`  what must hold of the neighbours' calls, and how flowcache did itself
- `requests`   what attackers send, as bytes
- `attacker`   the attacker, a process of its own: a few manners to hurt a server
- `liar`       a proxy to Redis that answers some commands with a lie
- `rigs`       Redis as they need it: full of large keys, behind a proxy, with fewer rights
- `acts`       what is done while the neighbours call
- `scenarios`  the table of attacks
- `report`     the table of docs/reliability.md
"""
