"""python -m benchmarks.peers setup: makes the environments of the peers; make bench then measures them."""

from __future__ import annotations

import argparse

from benchmarks.peers import environments
from benchmarks.peers.catalogue import PEERS

if __name__ == "__main__":
    names = [environments.CLIENT, *(peer.folder for peer in PEERS)]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("action", choices=["setup", "list"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all where none is given")
    options = parser.parse_args()
    for name in options.names or names:
        if options.action == "setup" and not environments.is_ready(name):
            print(f"{name}: installing", flush=True)
            environments.make(name)
        print(f"{name}: {'ready' if environments.is_ready(name) else 'not set up'} in {environments.cache() / name}")
