"""The commands of facesphere-train, one a file. What needs torch is imported when a command runs, not before."""
