"""The material of one study: its people, its features, what an analysis found, and numbers as readers see them."""
