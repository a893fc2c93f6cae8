"""Fuzzing of everything that strangers send: `make fuzz` mutates, `make test` replays the corpus."""
