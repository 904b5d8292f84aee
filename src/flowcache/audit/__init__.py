"""Who touched which key in which interaction: the record of every attempt."""
