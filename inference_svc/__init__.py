"""The worker: leases slides, runs them in child processes, writes their outcomes to the store and completes them."""
