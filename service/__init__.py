"""The server: a photo in, a decision out, over REST and gRPC."""
