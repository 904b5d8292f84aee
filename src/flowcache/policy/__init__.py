"""Who may do what. Default deny: a permission that was not given is refused."""
