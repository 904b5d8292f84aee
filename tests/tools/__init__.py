"""The tools that hold the project to its word."""
