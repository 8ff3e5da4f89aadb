"""Random, damaged and hostile .cone files, and what conestool and the reference reader must agree on."""
