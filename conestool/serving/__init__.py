"""Pictures with concepts over HTTP, as A1111 has it: one model that draws one picture at a time for all who ask."""
