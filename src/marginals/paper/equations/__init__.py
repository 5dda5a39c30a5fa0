"""The entries of the catalogue, section by section; importing this package fills it."""
