"""The template map: from template voxels to millimetres in an image."""

ANTS, TORCH = "ants", "torch"
"""What runs the deformable step: SyN of antspyx, or log-demons in torch (`flow`), which takes many pairs at once, and a GPU."""
