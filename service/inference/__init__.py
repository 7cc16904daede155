"""Networks at work: detector, embedder, quality, and the batcher that shares them between requests."""
