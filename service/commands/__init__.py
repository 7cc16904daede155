"""The command line of the server: one file a group of commands."""
