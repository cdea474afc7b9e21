"""One reader for each kind of image file: voxels as stored and MONAI's meta data, or a refusal."""
