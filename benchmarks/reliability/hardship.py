"""stub"""
CASES = {}
