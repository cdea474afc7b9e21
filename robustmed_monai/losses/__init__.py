"""Published objectives, one file each; every loss returns its named terms."""
