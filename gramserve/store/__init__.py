"""The store is the truth: images, batches, results and artifacts, in a folder or in S3-compatible storage."""
