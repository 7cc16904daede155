"""Who may call, and what was erased."""
