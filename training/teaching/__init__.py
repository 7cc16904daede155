"""Learning from another model: its embeddings as targets, and its weights, made thinner, to begin with."""
