"""Pictures as arrays: cuts through images along the cord, outlines and colours. Nothing here knows files or drawing libraries."""
