"""A trained network to a bundle that the service loads unchanged: ONNX, manifest, card, and smaller variants of it."""
