"""Networks of the published methods, one file each."""
