"""The front door: accepts batches and uploads, tells results and events, keeps the queue true to the store."""
