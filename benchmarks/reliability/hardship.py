"""stub"""

CASES = {}
