"""How good embeddings are: verification, rates of error with intervals, identification, reports."""
