"""A reader of .cone files written from spec/cone-1.md alone; it shares no code with conestool."""
