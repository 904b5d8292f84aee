"""Run the command line: ``python -m flowcache``."""

from flowcache.cli import main

main()
