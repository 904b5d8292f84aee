"""Authentication: whose credential a call shows.

No I/O, no task, no clock of its own: what is decided follows from the call, the configuration and
the time that is given.

- `gate`          who calls, and whether they call too often; read this first
- `principals`    everybody known, by the digest of their token
- `credentials`   where in a request a credential stands
- `tokens`        tokens and their digests
- `jwt`, `jwks`   JSON Web Tokens of an issuer, and its keys; `settings` are the operator's
- `certificates`  client certificates; `x509` reads them
"""
