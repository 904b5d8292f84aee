"""The store against real servers, and against a scripted one where no real one can be had."""
