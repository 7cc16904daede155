"""Photos of people to a calibrated bundle in the registry, promoted only when it is proven not worse."""
