"""Hardware as numbers: the catalogue of published peaks, and what is in this machine."""
