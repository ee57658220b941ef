"""Mutants of the core: small mistakes on purpose, each of which a test must notice. See __main__.py."""
