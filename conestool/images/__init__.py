"""Photos in, class images drawn, and where in an image its subject is."""
