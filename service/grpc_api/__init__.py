"""gRPC adapter: parse, call the application layer, render. No logic."""
