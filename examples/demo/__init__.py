"""The whole system on synthetic slides: `make demo`."""
