"""How a model fails: stress of a bundle, and the report of it."""
