"""Risk data: records of one schema, and readers of the files that hold them."""
