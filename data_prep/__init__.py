"""One module per public source: turns the official download into a folder of images and a datalist JSON."""
