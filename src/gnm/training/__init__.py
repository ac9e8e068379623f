"""What a training step is made of, what it minimises, and its optimizer."""
