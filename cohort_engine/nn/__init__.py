"""Networks that see the cord: the generator they learn from, their training, and inference."""
