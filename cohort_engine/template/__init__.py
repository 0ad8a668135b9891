"""Reference spaces: a grid, cord maps, vertebral landmarks and a tract atlas. `load_template` finds them by name."""
