"""A fast shared memory for contact-centre flows: Redis data actions over HTTP."""

__all__ = ["__version__"]

__version__ = "0.1.0"
