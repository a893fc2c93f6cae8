"""TLS of all listeners and connections: which files, who may speak plain text, reloading, a laboratory's own CA."""
