"""The benchmark: flowcache and its peers in one run, compared by CPU time a request."""
