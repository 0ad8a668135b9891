"""The cord in an image: centreline and vertebral levels."""
