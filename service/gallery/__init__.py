"""People who are enrolled: records on disk as the source of truth, an index in memory derived from them."""
