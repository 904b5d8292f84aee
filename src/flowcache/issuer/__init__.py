"""The issuer of JSON Web Tokens: its keys, fetched and kept fresh beside the calls.

What its tokens are worth is judged in `authn.jwt`, which does no I/O.
"""
