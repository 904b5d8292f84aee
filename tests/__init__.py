"""The test suite of flowcache."""
