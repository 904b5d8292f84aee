"""The issuer of JSON Web Tokens: its keys, fetched and refreshed in the background.

What its tokens are worth is judged in `authn.jwt`, which does no I/O.
"""
