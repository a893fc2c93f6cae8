"""Other servers of the same model beside gramserve's, each in an environment of its own, driven by one client."""
