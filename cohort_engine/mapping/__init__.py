"""The template map: from template voxels to millimetres in an image."""
