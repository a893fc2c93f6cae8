"""gRPC plumbing shared by all services: servers, channels, interceptors, error details."""
