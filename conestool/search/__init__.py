"""Finding concept neurons: `find.py` from top to bottom, one file per method in `methods/`."""
