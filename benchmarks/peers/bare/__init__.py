"""The least a gRPC server of a model can be."""
