"""A second reader of the .cone format, written from spec/cone-1.md alone, and what the two readers agree on."""
