"""gramserve: the system that hospital microbiology laboratories run their Gram-stain AI on."""
