"""The client that drives every server."""
