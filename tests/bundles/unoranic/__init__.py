"""A package, so that fixtures of that scope (medmnist's patched digests) end with its tests."""
