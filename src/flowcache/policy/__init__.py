"""Who may do what. Default deny: a permission that was not given is refused.

No I/O, no task, no clock of its own: what is decided follows from the call, the configuration and
the time that is given.
"""
