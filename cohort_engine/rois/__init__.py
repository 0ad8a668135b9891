"""Regions of interest inside the cord: networks that find what people draw on diffusion images, their data and their scores."""
