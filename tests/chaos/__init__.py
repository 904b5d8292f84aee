"""The chaos harness: that its checks find what they are for, and a short run of it."""
