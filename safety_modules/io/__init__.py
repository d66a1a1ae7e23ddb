"""What many files need and none is about: whole files, strict JSON and YAML, HTML, bars, optional imports, the hub."""
