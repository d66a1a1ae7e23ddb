"""What can defend a model: one contract, one file (or folder) for each defence."""
